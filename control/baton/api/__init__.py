"""The API: the verbs over HTTP and JSON, on a unix socket in the state directory, and over TLS where it is wanted.

``GET`` reads and ``POST`` changes, one path a verb, under ``/v1``. Who may open the socket (mode
0600) may act; over the network, who shows the token. An error travels as data and is raised again on the other side
as the same class, so that ``ctl`` ends with the exit code that the control plane meant.
"""

from baton.api.client import ApiClient as ApiClient
from baton.api.network import NetworkServer as NetworkServer
from baton.api.server import ApiServer as ApiServer
from baton.api.transport import Network as Network
from baton.api.wire import SOCKET as SOCKET, error_data as error_data
from baton.state_lock import claim as claim
from baton.verbs import Facade as Facade, caller as caller
