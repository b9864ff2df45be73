"""What a bundle's graphs cost, and how fast a device could run them; needs the export extra.

``graphs`` and ``operators`` count operations and bytes, ``devices`` holds peak rates, ``roofline``
predicts times from both, ``report`` presents them.
"""
