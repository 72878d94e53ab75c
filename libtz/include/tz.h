/* tz.h - the C interface of libtz.
 *
 * Every function may be called from any thread. Pointers are borrowed for the call. */

#ifndef TZ_H
#define TZ_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What stands between the markers is read by cffi as it is: no macros, no #if. */
/* CFFI-BEGIN */

/* ---- Versions ---------------------------------------------------------------------------- */

/* The library's version, such as "0.1.0". */
const char *tz_version(void);

/* Counts incompatible changes of this header. */
uint32_t tz_abi_version(void);

/* The set of kernels chosen for this CPU, such as "baseline" or "v3"; for diagnostics only. */
const char *tz_cpu_level(void);

/* ---- Status ------------------------------------------------------------------------------ */

typedef int32_t tz_status;

enum {
    TZ_OK = 0,
    TZ_E_INVALID_ARGUMENT = 10
};

/* The constant's name, such as "TZ_OK"; never NULL, "TZ_E_UNKNOWN" for an unknown number. */
const char *tz_status_name(tz_status status);

/* ---- Checksums --------------------------------------------------------------------------- */

/* CRC-32C of `size` bytes, continuing from `initial` (0 at the start), into `*crc`.
 * `data` may be NULL if `size` is 0. TZ_E_INVALID_ARGUMENT on a NULL pointer otherwise. */
tz_status tz_crc32c(uint32_t initial, const void *data, size_t size, uint32_t *crc);

/* BLAKE3-256 of `size` bytes into the 32 bytes at `digest`; arguments as above. */
tz_status tz_blake3(const void *data, size_t size, uint8_t *digest);

/* CFFI-END */

#ifdef __cplusplus
}
#endif

#endif
