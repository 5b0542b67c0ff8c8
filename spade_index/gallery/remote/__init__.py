"""Galleries in object stores: `push` copies one there, `pull` brings it back, `opening` reads it in place.

    URL/gallery.json                 which catalog is the gallery now; replaced last, so no reader ever sees half
    URL/catalog/DIGEST.sqlite        the catalog, byte for byte
    URL/shards/000001-DIGEST.h5      a file that the catalog names, with its digest in its name
    URL/shards/000001-DIGEST.sums    digests of its blocks, by which parts of it are checked
    URL/index/000007-DIGEST.faiss
    URL/calibrations/000007-DIGEST.h5

An object's name states its contents, so objects are never replaced (but gallery.json): what is there need not be sent
again, and a reader of an earlier gallery.json finds all that it names.
"""
