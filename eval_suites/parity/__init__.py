"""The certificate: training, evaluation, template and server see the same token ids.

certificate.py  the comparison and its rows
probes.py       conversations that tell tokenizations apart
server.py       asks a running server, one chat at a time
"""
