"""The six networks in PyTorch: what people train for small devices."""

from typing import Any

import torch
from torch import nn


def conv(cin: int, cout: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, norm, ReLU."""
    layer = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(cout), nn.ReLU())


class Residual(nn.Module):
    """A CNN with a residual block."""

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(1, 16), conv(16, 16)
        self.c, self.norm = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.pool, self.d, self.dense = nn.MaxPool2d(2), conv(16, 32, stride=2), nn.Linear(32, 10)

    def forward(self, x):
        x = self.pool(self.a(x))
        x = torch.relu(x + self.norm(self.c(self.b(x))))
        return self.dense(self.d(x).mean((2, 3)))


class Depthwise(nn.Sequential):
    """Depthwise separable convolutions."""

    def __init__(self):
        body = [conv(1, 16, stride=2)]
        for cin, cout, stride in ((16, 32, 1), (32, 32, 2), (32, 64, 1)):
            body += [conv(cin, cin, stride=stride, groups=cin), conv(cin, cout, 1)]
        super().__init__(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class Audio(nn.Module):
    """One-dimensional convolutions on samples."""

    def __init__(self):
        super().__init__()
        layers = []
        for cin, cout, kernel, stride in ((1, 16, 9, 4), (16, 32, 5, 4), (32, 32, 3, 2)):
            layers += [nn.Conv1d(cin, cout, kernel, stride, kernel // 2), nn.BatchNorm1d(cout), nn.ReLU()]
        self.body, self.dense = nn.Sequential(*layers), nn.Linear(32, 10)

    def forward(self, x):
        return self.dense(self.body(x).mean(2))


class UNet(nn.Module):
    """Down, up by transposed convolution, joined."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.pool = conv(1, 8), conv(8, 16), nn.MaxPool2d(2)
        self.up, self.c, self.d = nn.ConvTranspose2d(16, 8, 2, 2), conv(16, 8), nn.Conv2d(8, 1, 1)

    def forward(self, x):
        a = self.a(x)
        return torch.sigmoid(self.d(self.c(torch.cat([torch.relu(self.up(self.b(self.pool(a)))), a], 1))))


class Lstm(nn.Module):
    """An LSTM over 28 steps, and a dense layer on the last."""

    def __init__(self):
        super().__init__()
        self.lstm, self.dense = nn.LSTM(28, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x):
        return self.dense(self.lstm(x)[0][:, -1])


class Transformer(nn.Module):
    """Two encoder layers of 64 with LayerNorm and GELU."""

    def __init__(self):
        super().__init__()
        self.embed, self.place = nn.Linear(28, 64), nn.Parameter(0.1 * torch.randn(1, 28, 64))
        kind = dict(dropout=0.0, activation="gelu", batch_first=True)
        self.layers = nn.Sequential(*(nn.TransformerEncoderLayer(64, 2, 128, **kind) for _ in range(2)))
        self.dense = nn.Linear(64, 10)

    def forward(self, x):
        return self.dense(self.layers(self.embed(x) + self.place).mean(1))


NETWORKS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "cnn": (Residual, (1, 28, 28)),
    "depthwise": (Depthwise, (1, 28, 28)),
    "audio": (Audio, (1, 1024)),
    "unet": (UNet, (1, 28, 28)),
    "lstm": (Lstm, (28, 28)),
    "transformer": (Transformer, (28, 28)),
}
"""Class, and the shape of its input without batch."""


def trained(name: str, x, y) -> nn.Module:
    """A network after a few dozen steps on labelled data (the U-Net: to tell large values from small ones)."""
    torch.manual_seed(5)
    torch.set_num_threads(1)
    net = NETWORKS[name][0]()
    optimizer, x, y = torch.optim.Adam(net.parameters(), 3e-3), torch.as_tensor(x), torch.as_tensor(y)
    net.train()
    for step in range(60):
        rows = torch.arange(step * 16, step * 16 + 16) % len(x)
        optimizer.zero_grad()
        made = net(x[rows])
        if name == "unet":
            loss = nn.functional.binary_cross_entropy(made, (x[rows] > 0.5).float())
        else:
            loss = nn.functional.cross_entropy(made, y[rows])
        loss.backward()
        optimizer.step()
    return net.eval()
