"""Start-up file of a kernel to which servers answer as SERVER says: in one way, or in several in turn."""

import email.message
import http.client
import io
import itertools
import os
import ssl
import urllib.error
import urllib.request
import urllib.response


def urlopen(request, *args, **kwargs):
    address, fault = getattr(request, "full_url", request), next(faults)
    page = urllib.response.addinfourl(
        io.BytesIO(b"<html>Please log in</html>"), email.message.Message(), address, 200
    )
    match fault:
        case "closed":
            raise http.client.RemoteDisconnected("Remote end closed connection without response")
        case "certificate":
            raise urllib.error.URLError(ssl.SSLCertVerificationError(1, "certificate verify failed"))
        case "403" | "429":
            raise urllib.error.HTTPError(address, int(fault), "Refused", email.message.Message(), None)
        case "cut off":
            page.read = cut_off
    return (
        page  # "page": that of a hotel's network, kept as the file; the next run finds it broken in the cache
    )


def cut_off(*args):
    raise http.client.IncompleteRead(b"", 1000)


faults = itertools.cycle(os.environ["SERVER"].split(", "))
urllib.request.urlopen = urlopen
