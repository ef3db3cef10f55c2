"""docs/: the site builds without a warning, and what is written from the code is whole."""

import importlib.util
import pathlib
import re
import subprocess
import sys
import venv

import pytest
from ml_collections.config_dict import ConfigDict

from fer_jax.core.fields import default_config
from tests.tiny import ROOT
