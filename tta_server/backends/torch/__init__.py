"""Exported programs of PyTorch, `model.pt2`, on the CPU or a CUDA device.

Nothing here imports torch but `backend.py`, `loading.py` and `device_runs.py`, once a model asks for it.
"""
