"""Licences as the Hugging Face Hub names them: any other is refused when it is uploaded.

From https://huggingface.co/docs/hub/repositories-licenses; `huggingface_hub` holds no list. Those of single models of
others (llama3, gemma, ...) are left out.
"""

from __future__ import annotations

from rise_env.errors import ConfigError, unknown_name

__all__ = ["LICENSES", "check_license"]

LICENSES = (
    "apache-2.0", "mit", "openrail", "bigscience-openrail-m", "creativeml-openrail-m", "bigscience-bloom-rail-1.0",
    "bigcode-openrail-m", "afl-3.0", "artistic-2.0", "bsl-1.0", "bsd", "bsd-2-clause", "bsd-3-clause",
    "bsd-3-clause-clear", "c-uda", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0",
    "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cdla-sharing-1.0",
    "cdla-permissive-1.0", "cdla-permissive-2.0", "wtfpl", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1",
    "eupl-1.2", "agpl-3.0", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "isc", "lppl-1.3c",
    "ms-pl", "mpl-2.0", "odc-by", "odbl", "openrail++", "osl-3.0", "postgresql", "ofl-1.1", "ncsa", "unlicense",
    "zlib", "pddl", "lgpl-lr", "unknown", "other",
)  # fmt: skip


def check_license(name: str) -> None:
    """Check that the Hub knows a licence by this name.

    Raises:
        ConfigError: If it does not; the message lists those that it knows.

    Example:
        >>> check_license("apache-2.0")
    """
    if name not in LICENSES:
        same = next((one for one in LICENSES if one == name.lower().replace(" ", "-")), None)
        raise ConfigError(
            f"licence {name!r}: the Hub calls it {same!r}"
            if same
            else f"{unknown_name('licence', name, LICENSES)} Of any other say 'other', and put its text into LICENSE"
        )
