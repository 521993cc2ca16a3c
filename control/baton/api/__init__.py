"""The API: the verbs over HTTP and JSON, on a unix socket in the state directory, and over TLS where it is wanted.

``GET`` reads and ``POST`` changes, one path a verb, under ``/v1``. Who may open the socket (mode
0600) may act; over the network, who shows the token. An error travels as data and is raised again on the other side
as the same class, so that ``ctl`` ends with the exit code that the control plane meant.
"""

from baton.api.client import ApiClient
from baton.api.network import NetworkServer
from baton.api.server import ApiServer
from baton.api.transport import Network
from baton.api.wire import SOCKET, error_data
from baton.state_lock import claim
from baton.verbs import Facade, caller

__all__ = ["SOCKET", "ApiClient", "ApiServer", "Facade", "Network", "NetworkServer", "caller", "claim", "error_data"]
