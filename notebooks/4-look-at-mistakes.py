# %% [markdown]
# # 4. Look at mistakes
#
# What the run of notebook 2 confuses on the test split, and its most confident wrong answers.

# %%
import matplotlib.pyplot as plt
import numpy as np

from lockstep.notebook import load, open_data, train

run = train("digits", "training.epochs=10", seed=1)
model = load("digits", run)
data = open_data("digits")
test = data.splits["test"]
answers = model.predict([model.preprocess.show(pixels) for pixels in test.inputs])
predicted = np.array([data.labels.index(answer["label"]) for answer in answers])
wrong = np.flatnonzero(predicted != test.target)
print(f"{len(wrong)} of {len(test)} are wrong, accuracy {1 - len(wrong) / len(test):.4f}")

# %% [markdown]
# ## What is confused with what

# %%
counts = np.array(run.finished_receipt()["results"]["metrics"]["test"]["confusion"])
figure, axis = plt.subplots(figsize=(5, 4.6), layout="constrained")
mistakes = np.where(np.eye(len(counts)), 0, counts)
axis.imshow(mistakes, cmap="Oranges", vmax=max(1, 1.5 * mistakes.max()))
for label, answer in zip(*np.nonzero(counts), strict=True):
    right = "#888" if label == answer else "black"
    axis.text(answer, label, counts[label, answer], ha="center", va="center", c=right)
axis.set(xlabel="answer", ylabel="label")
for ticked in (axis.xaxis, axis.yaxis):
    ticked.set_ticks(range(len(data.labels)), data.labels)

# %% [markdown]
# ## Wrong, but confident
#
# Would you have known? If not, the label may be wrong.

# %%
sure = sorted(wrong, key=lambda row: -answers[row]["confidence"])[:12]
figure, axes = plt.subplots(2, 6, figsize=(9, 3.8), layout="constrained")
for axis in axes.flat:
    axis.axis("off")
for axis, row in zip(axes.flat, sure, strict=False):
    axis.imshow(test.inputs[row], cmap="gray_r")
    answer, label = answers[row], data.labels[test.target[row]]
    axis.set_title(f"{answer['label']} ({answer['confidence']:.0%})\nis {label}", fontsize=10)
