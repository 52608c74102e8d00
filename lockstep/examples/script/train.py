"""A plain script: logistic regression on the digits of a CSV file, in torch."""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F


def main() -> None:
    """Train, and write the weights and the metrics."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).with_name("digits.csv"))
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("out"))
    options = parser.parse_args()
    table = np.loadtxt(options.data, delimiter=",", skiprows=1, dtype=np.float32)
    inputs = torch.from_numpy(table[:, :-1] / 16)
    labels = torch.from_numpy(table[:, -1].astype(np.int64))
    rows, test = np.arange(0, len(table) * 4 // 5), slice(len(table) * 4 // 5, None)
    model = torch.nn.Linear(inputs.shape[1], 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=options.lr, momentum=0.9)
    for epoch in range(options.epochs):
        np.random.shuffle(rows)
        for batch in np.array_split(rows, max(1, len(rows) // 32)):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs[batch]), labels[batch])
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}  loss {loss.item():.4f}")
    accuracy = (model(inputs[test]).argmax(1) == labels[test]).float().mean().item()
    options.output.mkdir(exist_ok=True)
    torch.save(model.state_dict(), options.output / "model.pt")
    (options.output / "metrics.json").write_text(json.dumps({"test": {"accuracy": accuracy}}))


if __name__ == "__main__":
    main()
