"""The weights and the tokenizer of a model folder, copied file by file; no model is built."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ..errors import UserError
from ..models.file_names import BESIDE, INDEX, TOKENIZER_CONFIG, WEIGHTS


def copy_model(source: Path, target: Path, average: Path | None = None) -> None:
    """Copy weights, tokenizer and generation configuration.

    Args:
        source: a model folder.
        target: an existing folder.
        average: a file of averaged weights, which take the place of those of the same name.

    Raises:
        UserError: the folder holds no whole set of safetensors, or an average of another model.
    """
    files = _weight_files(source)
    if average is None:
        for name in files:
            shutil.copyfile(source / name, target / name)
    else:
        _write_averaged(source, [name for name in files if name != INDEX], target, average)
        if INDEX in files:
            shutil.copyfile(source / INDEX, target / INDEX)
    _copy_beside(source, target)


def write_merged(source: Path, target: Path) -> None:
    """Write the network of an adapter with the adapter merged in (its moving average, where there is one), and the tokenizer.

    Args:
        source: the folder of an adapter.
        target: an existing folder.

    Raises:
        UserError: PEFT is not installed, the network is not there, or the adapter does not fit it.
    """
    from ..models.loading import load_model, tokenizer_folder

    load_model(source, str(source)).save_pretrained(target)
    _copy_beside(tokenizer_folder(source, str(source)), target)
    _copy_beside(source, target)


def read_special_tokens(folder: Path) -> None:
    """Let the tokenizer of a model folder read the names of special tokens as these tokens, as others do.

    ``pipeline("fill-mask")`` finds the mask of a denoiser in no other way. Tokenizers of earlier versions split them.
    """
    path = folder / TOKENIZER_CONFIG
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if config.pop("split_special_tokens", False):
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _copy_beside(source: Path, target: Path) -> None:
    for name in BESIDE:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _weight_files(source: Path) -> list[str]:
    """Names of the weights: one file, or an index and the shards that it names."""
    if (source / WEIGHTS).is_file():
        return [WEIGHTS]
    try:
        shards = sorted(set(json.loads((source / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    except FileNotFoundError as error:
        raise UserError(
            f"{source} holds no weights of a whole model ({WEIGHTS}); push the run, whose best/ holds them"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{source / INDEX} is damaged; take another checkpoint") from error
    for name in shards:
        if not isinstance(name, str) or Path(name).name != name or Path(name).suffix != ".safetensors":
            raise UserError(
                f"{source / INDEX} names {name!r}, which is no file of weights beside it; take another model"
            )
        if not (source / name).is_file():
            raise UserError(f"{source / name} is missing; take another checkpoint")
    return [INDEX, *shards]


def _write_averaged(source: Path, names: list[str], target: Path, average: Path) -> None:
    """Write the files anew, every averaged tensor in the data type of the one whose place it takes."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    try:
        with safe_open(average, "pt") as averages:
            left = set(averages.keys())
            for name in names:
                with safe_open(source / name, "pt") as file:
                    metadata = file.metadata()
                    tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
                for key in left & tensors.keys():
                    tensors[key] = averages.get_tensor(key).to(tensors[key].dtype)
                left -= tensors.keys()
                save_file(tensors, target / name, metadata)
    except SafetensorError as error:
        raise UserError(f"the weights in {source} cannot be read ({error}); take another checkpoint") from error
    if left:
        raise UserError(f"{average} averages {min(left)!r}, which the weights beside it lack; take another checkpoint")
