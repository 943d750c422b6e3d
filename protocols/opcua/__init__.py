"""OPC UA (OPC 10000, release 1.05): what a server's nodes mean, and how far its values can be believed.

Bytes on the wire are the client library's business; this package only gives them a meaning.
"""
