"""TensorRT in a process of its own, under whatever Python its bindings need.

Problem: the bindings of TensorRT 8.6 are for Python 3.10 and older, ours is 3.11 and newer; the library ends the
process on some errors, and memory of one engine cannot be told from another's within one process. So the builder talks
to this program by JSON lines (see `protocol`), arrays travel as .npz files.

Runs on Python 3.10 and newer with numpy, tensorrt, cuda-bindings and nvidia-ml-py alone; imports nothing of Sluice.
"""
