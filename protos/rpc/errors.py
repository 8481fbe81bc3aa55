"""What can be wrong with an end of a connection."""


class EndpointError(Exception):
    """An endpoint cannot be offered or reached as asked: a file for TLS, an address or a port is wrong.

    The message says what was found, what was expected and what to do.
    """
