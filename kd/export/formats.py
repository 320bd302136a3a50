"""The files of an exported network: written, and read back."""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from kd.errors import UserError, reason
from kd.models.base import Task
from kd.models.network import Centred, load_weights, weights_of
from kd.seeding import generator, isolated
from kd.training.checkpoint import rebuild, source_of

ONNX, INT8 = "student.onnx", "student.int8.onnx"
PT2, WEIGHTS, CONFIG = "student.pt2", "student.safetensors", "config.json"
OPSET = 18  # of ONNX, of December 2022: runtimes of any age that matters know it
MEAN = "images.mean"  # what the network sees images minus, among its weights
INPUT, OUTPUT = "images", "logits"

Forward = Callable[[Tensor], Tensor]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what exporters say to themselves from the terminal."""
    before, nowhere = logging.root.manager.disable, io.StringIO()
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(nowhere), redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def trace(network: nn.Module, task: Task, name: str) -> torch.export.ExportedProgram:
    """Trace a network for batches of any size.

    Args:
        network: in evaluation mode.
        task: what it is made for.
        name: of the network, for messages.

    Raises:
        UserError: its code does something that cannot be exported.
    """
    dims = ({0: torch.export.Dim("batch")},)
    try:
        with quiet():
            images = torch.rand(2, *task.shape)
            found = torch.export.export(network, (images,), dynamic_shapes=dims, strict=False)
    except Exception as error:  # whatever the user's own code and torch make of each other
        raise UserError(
            f"{name}: cannot be exported; its code may decide by the values of images, which no "
            f"graph can: {reason(error)}"
        ) from error
    for node in found.graph.nodes:  # where the code lies is nobody's business
        node.meta.pop("stack_trace", None)
    return found


def write_onnx(program: torch.export.ExportedProgram, path: Path, about: Mapping[str, Any]) -> None:
    """Write a traced network as ONNX, with what is known of it as metadata.

    Raises:
        UserError: ONNX has no word for something that the network does.
    """
    try:
        with quiet():
            made: Any = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
            model = made.model_proto
            onnx.checker.check_model(model)
    except Exception as error:  # of the exporter's many kinds
        why = reason(error.__cause__ or error)  # the error itself is a page of advice
        raise UserError(f"{path.name}: ONNX cannot say it: {why}") from error
    onnx.save(tidy(model, about), path)


def tidy(model: onnx.ModelProto, about: Mapping[str, Any]) -> onnx.ModelProto:
    """Name the batch, say what is known of the network, and remove notes of the exporter's."""
    graph = model.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer, graph):
        part.ClearField("metadata_props")
    graph.ClearField("value_info")
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.helper.set_model_props(model, {key: str(value) for key, value in about.items()})
    return model


def open_onnx(path: Path, threads: int = 1) -> Forward:
    """Return what answers images by onnxruntime, with so many threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def forward(images: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(session.run([OUTPUT], {INPUT: images.numpy()})[0]))

    return forward


def write_pt2(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write a traced network as torch's own file."""
    with quiet(), path.open("wb") as file:
        torch.export.save(program, file)


def open_pt2(path: Path) -> Forward:
    """Return what answers images by the network of a file of :func:`write_pt2`."""
    with quiet():
        return torch.export.load(path).module()


def write_safetensors(network: nn.Module, folder: Path, about: Mapping[str, Any]) -> None:
    """Write a network's weights, and what it is rebuilt by.

    Args:
        network: whose weights.
        folder: takes both files.
        about: with ``model``, ``shape`` and ``classes``; what else is known.
    """
    weights = {name: value.contiguous() for name, value in weights_of(network).items()}
    if isinstance(network, Centred):
        weights[MEAN] = network.mean.contiguous()
    # save_file would keep it from all other users, whatever the umask says
    (folder / WEIGHTS).write_bytes(save(weights, metadata={"format": "pt"}))
    (folder / CONFIG).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def load_student(folder: Path | str, trust_code: bool = False) -> Any:
    """Load an exported network from ``student.safetensors``, in evaluation mode.

    Args:
        folder: that ``stage=export`` wrote.
        trust_code: import the code that ``config.json`` names, where the network is not kd's own.

    Raises:
        UserError: the files are missing or damaged, or the network is of other code.
    """
    path = Path(folder) / CONFIG
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        weights = load_file(Path(folder) / WEIGHTS)
        task = Task(tuple(about["shape"]), about["classes"])
        saved, mean = about["model"], weights.pop(MEAN, None)
        source = source_of(saved) if trust_code else None
        with isolated(generator(0, "weights").initial_seed()):
            network = rebuild(path, saved, task, source)
        load_weights(network, weights)
    except UserError:
        raise
    except Exception as error:  # a damaged file may raise anything
        raise UserError(f"{folder}: cannot be loaded: {reason(error)}") from error
    return (network if mean is None else Centred(network, mean)).eval()
