"""The inspection station: `efficientad serve part.ead`.

Parts come by HTTP or from a watched folder. Every answer is on the disk before it is
given, and an undecided part is never called normal. No torch here.
"""
