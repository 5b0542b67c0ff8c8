// The scan with AMX, whose unit multiplies tiles of bfloat16 (Intel from Sapphire Rapids).
#if defined(__x86_64__) && defined(__GNUC__)
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,f16c,fma,amx-tile,amx-bf16")
#define SCAN amx_scan
#define WITH_AMX 1
#include "native.inc"
#else
#include "nearest.h"
const Scan amx_scan = {};
#endif
