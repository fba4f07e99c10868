"""A small vision transformer, trained in seconds on the digits that come with scikit-learn."""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["SIZE", "DigitsTransformer", "digits", "trained"]

SIZE, PATCH, WIDTH, DEPTH = 8, 2, 48, 4
TEST = 597  # images that training does not see
EPOCHS, BATCH = 20, 50


class DigitsTransformer(nn.Module):
    """Patches and a class token, positions, blocks of attention with a normalization before each part, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.positions = nn.Parameter(torch.randn(1, (SIZE // PATCH) ** 2 + 1, WIDTH) / 10)
        block = nn.TransformerEncoderLayer(
            WIDTH, 4, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, DEPTH, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 8, 8) -> logits, (N, 10)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1) + self.positions
        logits: Tensor = self.head(self.blocks(tokens)[:, 0])
        return logits


def digits() -> tuple[Tensor, Tensor]:
    """Return images within [0, 1], (N, 3, 8, 8), and labels, in one random order; the last `TEST` are to test with."""
    pixels, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images = torch.from_numpy(pixels).float().reshape(-1, 1, SIZE, SIZE) / 16
    return images.expand(-1, 3, -1, -1)[order], torch.from_numpy(labels)[order]


def trained(mean: float, std: float) -> DigitsTransformer:
    """Return a network trained with a seed, on images less `mean`, over `std`."""
    torch.manual_seed(0)
    images, labels = (x[:-TEST] for x in digits())
    network = DigitsTransformer()
    steps = EPOCHS * len(labels) // BATCH
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    for _ in range(steps):
        chosen = torch.randint(len(labels), (BATCH,))
        loss = F.cross_entropy(network((images[chosen] - mean) / std), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()
