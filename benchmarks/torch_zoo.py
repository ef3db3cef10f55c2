"""Two networks that FER2013 is commonly trained with, in plain PyTorch, as a scale for the speed of smaller ones.

Both take grey images [B, 1, 40, 40] and have the first layers of their CIFAR versions: 3×3, stride 1, no pooling before
the first stage.
"""

import torch.nn.functional as F
from torch import Tensor, nn


def convolution(inputs: int, features: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    """A convolution and its batch norm."""
    return nn.Sequential(nn.Conv2d(inputs, features, size, stride, size // 2, bias=False), nn.BatchNorm2d(features))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside an identity, or beside a 1×1 convolution where the shape changes."""

    def __init__(self, inputs: int, features: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = convolution(inputs, features, stride=stride), convolution(features, features)
        same = inputs == features and stride == 1
        self.shortcut = nn.Identity() if same else convolution(inputs, features, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


def resnet18(classes: int) -> nn.Module:
    """ResNet-18 (He et al., 2016): 11.2 million parameters."""
    layers, inputs = [convolution(1, 64), nn.ReLU()], 64
    for features, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [BasicBlock(inputs, features, stride), BasicBlock(features, features, 1)]
        inputs = features
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def vgg13(classes: int) -> nn.Module:
    """VGG-13 with batch norm (Simonyan & Zisserman, 2015), five poolings from 40 to 1, one linear layer: 9.4 million parameters."""
    layers, inputs = [], 1
    for features in (64, 128, 256, 512, 512):
        layers += [convolution(inputs, features), nn.ReLU(), convolution(features, features), nn.ReLU(), nn.MaxPool2d(2)]
        inputs = features
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.5), nn.Linear(inputs, classes))
