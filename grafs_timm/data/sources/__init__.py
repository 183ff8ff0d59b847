"""Readers of data as people have them, to be packed into shards."""

from __future__ import annotations

from .opening import open_source as open_source
from .opening import recognised as recognised
from .source import EXTENSIONS as EXTENSIONS
from .source import Own as Own
from .source import Source as Source
from .source import Split as Split
from .torchvision_sets import LOCAL as LOCAL
from .torchvision_sets import downloads as downloads
from .torchvision_sets import files_of as files_of
from .torchvision_sets import torchvision_name as torchvision_name
