"""What a run is made of: the data set, mesh, network and optimizer that its configuration names."""

import copy
import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Float
from ml_collections import ConfigDict

from fer_jax.core import processes
from fer_jax.core.config import profiled_steps, windows
from fer_jax.core.errors import DataWarning, InputError
from fer_jax.core.mesh import DATA, device_memory, make_mesh, whole
from fer_jax.data.load import load
from fer_jax.data.schema import Dataset
from fer_jax.data.views import CROP_SIDE
from fer_jax.model.baselines import make_any
from fer_jax.runs.environment import environment
from fer_jax.runs.state import TrainState, create_state
from fer_jax.runs.weights import difference_text, flat, head_paths, nested, read_weights, transfer
from fer_jax.training.identity import files_sha256
from fer_jax.training.optimizer import make_optimizer, make_schedule


@dataclasses.dataclass(frozen=True)
class Run:
    """The parts of one run, ready to train or evaluate."""

    config: ConfigDict
    dataset: Dataset
    mesh: Mesh
    network: nn.Module
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    steps: int  # of the whole run
    steps_per_epoch: int
    files_sha256: dict[str, list[str]] = dataclasses.field(default_factory=dict)  # as of identity.files_sha256

    @property
    def early_steps(self) -> int:
        """Steps of the first part of the run, in which views have config.augment.early_side."""
        return self.begin(self.config.augment.early_share)

    @property
    def mean_from(self) -> int | None:
        """The first step, from 0, whose parameters go into the plain mean of the last ones; None where there is no such mean."""
        share = self.config.optimizer.average_from
        return self.begin(share) if share < 1 else None

    @functools.cached_property
    def boundaries(self) -> list[int]:
        """The steps at which something is switched on or off: between two of them each step does the same."""
        ends = (step for window in windows(self.config, self.steps).values() for step in window)
        return sorted({self.early_steps, *ends} - {0, self.steps})

    def config_at(self, step: int) -> ConfigDict:
        """The configuration with what is not on after `step` steps at 0."""
        config = copy.deepcopy(self.config)
        off = [field for field, (first, last) in windows(config, self.steps).items() if not first <= step < last]
        config.update_from_flattened_dict(dict.fromkeys(off, 0.0))
        return config

    def begin(self, share: float) -> int:
        """The first step, from 0, of the part that lasts from that `share` of the run to its end: the last step at least."""
        return min(round(share * self.steps), self.steps - 1)

    def side(self, step: int) -> int:
        """Side of the views that the step after `step` steps is taken on."""
        return self.config.augment.early_side if step < self.early_steps else CROP_SIDE

    def validation(self, step: int) -> tuple[int, str]:
        """Side and kind of the views that the state after `step` steps is validated by.

        The best is one of those that are validated as the last is: by views of full size, and by ten where such are asked for.
        """
        ten = self.config.evaluation.ten_from
        return self.side(step - 1), 'ten' if ten < 1 and step > self.begin(ten) else 'centre'

    def initial_state(self) -> TrainState:
        """The state before the first step, whole on every device of the mesh."""
        return self._creation.lower().compile()()

    def first_state(self) -> tuple[TrainState, dict[str, Any] | None]:
        """The initial state, with the variables of config.init_from in it where that is set, and what was loaded of them.

        Raises:
          InputError: init_from is nothing that can be read, or fits nowhere.
        """
        state = self.initial_state()
        if self.config.init_from is None:
            return state, None
        classes = self.dataset.class_names
        drawn = flat(jax.device_get(state.variables))
        head = head_paths(self.config.network, len(classes))
        loaded, report = transfer(drawn, read_weights(self.config.init_from), classes, head)
        if processes.is_lead():
            print(difference_text(report))

        def place(variables: dict[str, Any]) -> TrainState:
            # Two copies, for the step gives the memory of both away.
            variables, average = (jax.tree.map(jnp.copy, variables) for _ in range(2))
            moments = self.optimizer.init(variables['params'])
            return state.replace(variables=variables, optimizer=moments, average=average if state.average else {})

        return jax.jit(place, out_shardings=whole(self.mesh))(nested(loaded)), report

    def abstract_state(self) -> TrainState:
        """Shapes and types of the state; nothing is computed."""
        return self._creation.out_info

    def damped(self, rollbacks: int) -> 'Run':
        """The run with the learning rate that so many rollbacks leave it."""
        if not rollbacks:
            return self
        factor = self.config.train.rollback_factor**rollbacks

        def schedule(step: Any) -> Any:
            return factor * self.schedule(step)

        return dataclasses.replace(self, schedule=schedule, optimizer=make_optimizer(self.config.optimizer, schedule))

    def logits(self, variables: dict[str, Any], images: Float[Array, 'batch height width 1']) -> Float[Array, 'batch classes']:
        """The network's outputs with running statistics, of the head that is kept."""
        return self.network.apply(variables, images, train=False)[:, : len(self.dataset.class_names)]

    def record(self) -> dict[str, Any]:
        """What says, beside a checkpoint, what it is of."""
        return {
            'config': self.config.to_dict(),
            'environment': environment(),
            'content_sha256': self.dataset.manifest['content_sha256'],
            'files_sha256': self.files_sha256,
            'class_names': list(self.dataset.class_names),
            'split_titles': self.dataset.split_titles,
        }

    @functools.cached_property
    def _creation(self) -> jax.stages.Traced:
        averaged = self.config.optimizer.ema > 0 or self.mean_from is not None

        def create() -> TrainState:
            return create_state(self.network, self.optimizer, self.config.seed, averaged)

        # Two hundred small draws that run once: compiling them well takes longer than anything they do.
        return jax.jit(create, out_shardings=whole(self.mesh), compiler_options={'xla_backend_optimization_level': 0}).trace()


def build(config: ConfigDict, wanted: Callable[[], bool] = lambda: True, training: bool = True) -> Run | None:
    """Starts JAX, reads (and where needed prepares) the data, and builds what `config` names; of several processes all must call this.

    Args:
      wanted: asked after the start and before anything is read, such as by joining other processes; where not, None is returned.
      training: steps are to be taken; otherwise the size of their batches is no matter, and all devices evaluate.

    Raises:
      InputError: data that cannot be read; and for training, fewer images than a batch, a batch that does not divide over the devices,
        or views, windows or steps to be traced that do not fit.
    """
    processes.start(config.parallel.cpu_devices)
    return processes.agreed(lambda: parts(config, training)) if wanted() else None


def parts(config: ConfigDict, training: bool) -> Run:
    """What `build` does once JAX has started and the processes know each other."""
    memory, lead = device_memory(), processes.is_lead()
    if not lead:
        warnings.simplefilter('ignore', DataWarning)  # the lead's say it
    # The lead first, which may have to prepare the data; the others then find them prepared.
    dataset = processes.agreed(lambda: load(config.data, memory) if lead else None)
    dataset = processes.agreed(lambda: dataset or load(config.data, memory))
    mesh = make_mesh(config.batch_size if training else jax.device_count())
    axis = DATA if config.network.batch_norm == 'global' else None
    network = make_any(config.network, outputs(config, dataset), axis)
    steps_per_epoch = len(dataset.splits['train']) // config.batch_size or int(not training)
    if steps_per_epoch == 0:
        raise InputError(f'batch_size {config.batch_size} is more than the {len(dataset.splits["train"])} training images')
    steps = max(1, round(config.epochs * steps_per_epoch))
    if training:
        windows(config, steps)
    if config.augment.early_share:
        check_side(network, config.augment.early_side)
    profiled = profiled_steps(config.train.profile)
    if training and profiled and profiled[1] > steps:
        raise InputError(f'train.profile={config.train.profile}: the run has {steps} steps')
    schedule = make_schedule(config.optimizer, steps, steps_per_epoch)
    files = files_sha256(config.data) if training else {}
    return Run(config, dataset, mesh, network, make_optimizer(config.optimizer, schedule), schedule, steps, steps_per_epoch, files)


def outputs(config: ConfigDict, dataset: Dataset) -> int:
    """Outputs of the network while it trains: one a class, and where votes teach a second head, as many behind them for that one.

    The head is linear and so is the mean behind it: a head of twice the outputs is two heads.
    """
    return len(dataset.class_names) * (2 if config.data.votes_head else 1)


def check_side(network: nn.Module, side: int) -> None:
    """Returns if `network` takes views of `side`²; nothing is computed.

    Raises:
      InputError: one of its layers would have nothing to work on.
    """
    views = jax.ShapeDtypeStruct((1, side, side, 1), jnp.float32)
    try:
        jax.eval_shape(lambda x: network.clone(statistics_axis=None).init(jax.random.key(0), x, train=False), views)
    except InputError as error:
        raise InputError(f'augment.early_side={side}: {error}') from None
