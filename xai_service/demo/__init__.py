"""``xai demo``: real mortgage applications, from the data to why one applicant was denied. Needs the extra ``demo``."""

from xai_service.demo.story import run

__all__ = ["run"]
