// The scan in vectors that every processor has: slow, to test the others' method where they cannot run.
#define SCAN portable_scan
#include "native.inc"
