"""The same network, augmentations and training step in PyTorch, written as a PyTorch user would: the peer that speed is measured against.

It covers what the benchmarks run (COVERED): SA + Base(g) + CA with residual sums and shortcuts, AdamW under a cosine, an
average of the weights, and the augmentations of `configs/fer2013.py`. One thing differs: PyTorch's running variance takes
n / (n - 1) times the batch's variance, flax's the batch's; training does not read it. Nothing of `fer_jax` imports this.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from ml_collections import ConfigDict
from torch import Tensor, nn

CROP_SIDE = 40  # the network's input, out of images of 48×48
# The fields whose other values have no counterpart here.
COVERED = {
    'augment': {'shift': 0.0, 'erase': 0.0, 'mixup': 0.0, 'cutmix': 0.0, 'alternate': False, 'share': 1.0, 'early_share': 0.0},
    'data': {'votes': None, 'class_weights': False},
    'network': {
        'attention': 'both',
        'fusion': 'pointwise',
        'preactivation': False,
        'residual': True,
        'zero_last_gamma': False,
        'shortcut': True,
        'activation': 'relu',
        'batch_norm': 'global',
        'batch_norm_momentum': 0.9,
    },
    'optimizer': {'name': 'adamw', 'schedule': 'cosine', 'sam': 0.0, 'average_from': 1.0},
}


def uncovered(config: ConfigDict) -> list[str]:
    """The dotted fields of `config` that make a run whose like is not written here."""
    wrong = [f'{group}.{name}' for group, values in COVERED.items() for name, value in values.items() if config[group][name] != value]
    return wrong + ['network.shuffle_groups'] * (config.network.shuffle_groups is None)


class Block(nn.Module):
    """`fer_jax.model.fernet.CSPBlock`, its modules under the same names."""

    def __init__(self, inputs: int, features: int, stride: int, groups: int) -> None:
        super().__init__()
        half = inputs // 2
        self.features, self.stride, self.groups = features, stride, groups
        for name in ('dense_conv1', 'dense_conv2'):
            self.add_conv(name, half, half, 3)
        for name in ('depthwise1', 'depthwise2'):
            self.add_conv(f'{name}_depth', half, half, 3, groups=half)
            self.add_conv(f'{name}_point', half, half, 1)
        self.concat_bn = nn.BatchNorm2d(inputs)
        self.add_conv('reduce', inputs, half, 1)
        self.add_conv('spatial', half, half, 3, groups=half, stride=stride)
        self.add_conv('expand', half, features, 1)
        self.fusion = nn.Conv2d(features, features, 1, bias=False)

    def add_conv(self, name: str, inputs: int, features: int, size: int, **options: int) -> None:
        """A convolution and the batch norm behind it."""
        self.add_module(name, nn.Conv2d(inputs, features, size, padding=size // 2, bias=False, **options))
        self.add_module(f'{name}_bn', nn.BatchNorm2d(features))

    def layer(self, x: Tensor, name: str) -> Tensor:
        return getattr(self, f'{name}_bn')(getattr(self, name)(x))

    def forward(self, x: Tensor) -> Tensor:
        dense, depthwise = x.chunk(2, 1)
        dense = F.relu(dense + self.layer(F.relu(self.layer(dense, 'dense_conv1')), 'dense_conv2'))
        for name in ('depthwise1', 'depthwise2'):
            depthwise = F.relu(depthwise + self.layer(self.layer(depthwise, f'{name}_depth'), f'{name}_point'))
        y = F.relu(self.concat_bn(torch.cat([dense, depthwise], 1)))
        y = F.channel_shuffle(y, self.groups)
        y = F.relu(self.layer(y, 'reduce'))
        y = self.fusion(F.relu(self.layer(self.layer(y, 'spatial'), 'expand')))
        if self.stride > 1:
            for axis in (2, 3):  # torch.compile 2.13 cannot differentiate a replicating F.pad
                x = torch.cat([x, x.narrow(axis, -1, 1)], axis) if x.shape[axis] % self.stride else x
            x = F.avg_pool2d(x, self.stride)
        return y + F.pad(x, (0, 0, 0, 0, 0, self.features - x.shape[1]))


class Network(nn.Module):
    """`fer_jax.model.fernet.FERNet` with the paper's two attentions; images [B, 1, 40, 40] → logits [B, classes]."""

    def __init__(self, config: ConfigDict, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, config.stem, 3, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(config.stem)
        self.spatial_attention = nn.Conv2d(2, 1, 3, padding=1)
        widths = (config.stem, *config.blocks)
        sizes = zip(widths[:-1], widths[1:], config.strides, strict=True)
        self.blocks = nn.ModuleList(Block(inputs, features, stride, config.shuffle_groups) for inputs, features, stride in sizes)
        self.squeeze = nn.Linear(widths[-1], widths[-1] // 2, bias=False)
        self.excite = nn.Linear(widths[-1] // 2, widths[-1], bias=False)
        self.head = nn.Conv2d(widths[-1], classes, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.stem_bn(self.stem(images)))
        x = x * torch.sigmoid(self.spatial_attention(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)))
        for block in self.blocks:
            x = block(x)
        gate = sum(self.excite(F.relu(self.squeeze(pooled))) for pooled in (x.mean((2, 3)), x.amax((2, 3))))
        return self.head(x * torch.sigmoid(gate)[:, :, None, None]).float().mean((2, 3))


def load_variables(network: Network, variables: dict) -> None:
    """Copies a tree of `fer_jax`'s parameters and batch statistics into `network`; every tensor of it is set."""
    state: dict[str, Tensor] = {}
    names = {'scale': 'weight', 'mean': 'running_mean', 'var': 'running_var', 'kernel': 'weight', 'bias': 'bias'}

    def place(tree: dict, path: str) -> None:
        for key, value in tree.items():
            if isinstance(value, dict):
                part = f'blocks.{int(key[5:]) - 1}' if key.startswith('block') else {'conv': '', 'channel_attention': ''}.get(key, key)
                place(value, '.'.join(filter(None, (path, part))))
                continue
            array = np.array(value)
            if key == 'kernel':
                array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
            state[f'{path}.{names[key]}'] = torch.from_numpy(np.ascontiguousarray(array))

    place(variables['params'], '')
    place(variables['batch_stats'], '')
    state |= {name: tensor for name, tensor in network.state_dict().items() if name.endswith('num_batches_tracked')}
    network.load_state_dict(state)


def augment(images: Tensor, options: ConfigDict) -> Tensor:
    """A random view of each image, [B, 48, 48] → [B, 40, 40], drawn for the whole batch at once.

    Crop, rotation and scale in one bilinear sampling, flip, brightness and contrast: what `fer_jax.training.augment` does.
    """
    batch, margin, device = len(images), images.shape[1] - CROP_SIDE, images.device

    def uniform(*shape: int) -> Tensor:
        return 2 * torch.rand(*shape, device=device) - 1

    corner = torch.randint(0, margin + 1, (batch, 2), device=device) if options.crop else torch.full((batch, 2), margin // 2, device=device)
    centre = corner + (CROP_SIDE - 1) / 2
    angle = math.radians(options.rotate) * uniform(batch)
    zoom = 1 + options.scale * uniform(batch)
    flip = 1 - 2 * (torch.rand(batch, device=device) < 0.5 * options.flip)
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    axis = torch.arange(CROP_SIDE, device=device) - (CROP_SIDE - 1) / 2
    down, right = torch.meshgrid(axis, axis, indexing='ij')
    right = flip[:, None, None] * right
    rows = cos[:, None, None] * down - sin[:, None, None] * right + centre[:, 0, None, None]
    columns = sin[:, None, None] * down + cos[:, None, None] * right + centre[:, 1, None, None]
    grid = torch.stack([columns, rows], -1) * (2 / (images.shape[1] - 1)) - 1
    views = F.grid_sample(images[:, None], grid, padding_mode='border', align_corners=True)
    mean = views.mean((1, 2, 3), keepdim=True)
    brightness, contrast = uniform(2, batch, 1, 1, 1)
    return (views - mean) * (1 + options.contrast * contrast) + mean + 255 * options.brightness * brightness


def cosine(options: ConfigDict, steps: int, steps_per_epoch: int) -> Callable[[int], float]:
    """Step → learning rate as a share of the peak: linear from 0 over the warm-up, then half a cosine to 0 at `steps`."""
    warmup = min(round(options.warmup_epochs * steps_per_epoch), steps - 1)

    def share(step: int) -> float:
        if step < warmup:
            return step / warmup
        return (1 + math.cos(math.pi * min(1.0, (step - warmup) / (steps - warmup)))) / 2

    return share


class Trainer:
    """One training run whose data lie on the device: gather, augmentation, forward, backward, clipping, update, average.

    `compiler` is what `torch.compile` is given, None for eager mode.
    """

    def __init__(
        self,
        network: nn.Module,
        config: ConfigDict,
        images: np.ndarray,
        labels: np.ndarray,
        device: str,
        compiler: dict[str, Any] | None = None,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        self.config, self.device, self.steps = config, torch.device(device), 0
        self.memory_format = memory_format
        self.network = network.to(self.device, memory_format=memory_format).train()
        self.images, self.labels = torch.from_numpy(images).to(self.device), torch.from_numpy(labels).long().to(self.device)
        self.parameters = list(self.network.parameters())
        options, steps_per_epoch = config.optimizer, len(images) // config.batch_size
        groups = [
            {'params': [p for p in self.parameters if p.ndim > 1], 'weight_decay': options.weight_decay},
            {'params': [p for p in self.parameters if p.ndim <= 1], 'weight_decay': 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=options.learning_rate, fused=True)
        steps = max(1, round(config.epochs * steps_per_epoch))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, cosine(options, steps, steps_per_epoch))
        self.tracked = {name: t for name, t in self.network.state_dict().items() if t.is_floating_point()}
        self.average = {name: t.clone() for name, t in self.tracked.items()}
        self.mixed = config.network.dtype == 'bfloat16'
        self.loss, self.views = self.make_loss, self.make_views
        if compiler is not None:
            self.loss, self.views = (torch.compile(function, **compiler) for function in (self.make_loss, self.make_views))

    def make_views(self, rows: Tensor) -> Tensor:
        views = augment(self.images[rows].float(), self.config.augment)
        return ((views - 127.5) / 63.75).contiguous(memory_format=self.memory_format)

    def make_loss(self, images: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
            logits = self.network(images)
        return F.cross_entropy(logits.float(), labels, label_smoothing=self.config.optimizer.label_smoothing)

    def step(self) -> Tensor:
        """The loss of the next step, on a batch of its own; each epoch has a new order."""
        batch = self.steps % (len(self.images) // self.config.batch_size)
        if batch == 0:
            self.order = torch.randperm(len(self.images), device=self.device)
        rows = self.order.narrow(0, batch * self.config.batch_size, self.config.batch_size)
        return self.update(self.views(rows), self.labels[rows])

    def update(self, images: Tensor, labels: Tensor) -> Tensor:
        """The loss on given normalised images, after which the weights and their average have moved."""
        loss = self.loss(images, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.apply_gradients()
        return loss.detach()

    def apply_gradients(self) -> None:
        """Clipping, AdamW, the schedule and the average, whose decay rises as in `fer_jax.training.step.average`."""
        options = self.config.optimizer
        if options.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, options.clip)
        self.optimizer.step()
        self.schedule.step()
        if options.ema:
            decay = min(options.ema, (1 + self.steps) / (10 + self.steps))
            torch._foreach_lerp_(list(self.average.values()), list(self.tracked.values()), 1 - decay)
        self.steps += 1
