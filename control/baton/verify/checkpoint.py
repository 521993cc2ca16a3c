"""What others ask of a version folder: what it lacks, whether it is whole, what it says of itself."""

from baton.verify.completeness import missing_parts
from baton.verify.integrity import check_integrity, manifest
from baton.verify.meta import read_meta

__all__ = ["check_integrity", "manifest", "missing_parts", "read_meta"]
