"""Nodes for Ray's autoscaler that are processes of this machine. The head's monitor imports this by name."""

from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from ray._private import parameter
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider


class LocalNodes(FakeMultiNodeProvider):
    """Ray's own local provider, but each node with a folder of its own, as real nodes have: in a shared one a node that
    starts unpacks the job's code over that of the driver, whose working directory is gone then."""

    def _create_node_with_resources_and_labels(self, *request: Any) -> None:
        folder = Path(self.provider_config["folder"]) / str(self._next_node_id + 1)
        own = partial(parameter.RayParams, temp_dir=str(folder))
        with self.lock, mock.patch.object(parameter, "RayParams", own):
            super()._create_node_with_resources_and_labels(*request)
