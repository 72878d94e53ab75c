/* tz.h - the C interface of libtz.
 *
 * libtz reads and writes the tz file format (spec/tz-v1.md), made for the weights of models, and reads the
 * headers of other formats for them. It does no input or output: you hand it bytes, it tells you which bytes
 * it needs next, and it checks, decodes and encodes them. It has no threads, no global state and no locale,
 * needs no C library, reads no environment and writes no log. So it fits into any language, event loop or
 * transport. Any bytes at all give a result or a status: it never aborts on them, and never reads or writes
 * outside the memory it was given.
 *
 * bindings/c/tz_show.c is a whole program; bindings/rust and bindings/go do the same from there.
 *
 * Reading a file:
 *
 *   1. read the first megabyte;                 tz_header_open()       -> a tz_header, or how much more
 *   2. look around;                             tz_header_tensor(), tz_header_find()
 *   3. read the chunk entries of what you want; tz_header_run_ranges(), tz_header_put_runs()
 *   4. plan;                                    tz_plan_new()          -> requests, allocations
 *   5. for each request, on any thread: receive its bytes into its segments, then tz_plan_process()
 *      checks and decodes them. After the last one your tensors lie in your allocations.
 *
 * Example. Steps 1 and 2, for a file in memory:
 *
 *   uint64_t size = file_size < 1 << 20 ? file_size : 1 << 20;
 *   tz_header *header;
 *   tz_diagnostic where;
 *   tz_status status;
 *   do
 *       status = tz_header_open(file, size, file_size, NULL, &header, &size, &where);
 *   while (status == TZ_NEED_MORE);
 *   if (status != TZ_OK)
 *       return fprintf(stderr, "%s at byte %llu\n", tz_status_name(status),
 *                      (unsigned long long)where.offset);
 *   uint32_t index;
 *   if (tz_header_find(header, "lm_head.weight", 14, &index) == TZ_OK) {
 *       tz_tensor tensor = {.struct_size = sizeof tensor};
 *       tz_header_tensor(header, index, &tensor);
 *       printf("%llu bytes\n", (unsigned long long)tensor.decoded_size);
 *   }
 *   tz_header_free(header);
 *
 * Writing a file: tz_builder_new(); for each tensor tz_chunks_encode(), tz_builder_put_chunks(), write the bytes
 * where it says, tz_builder_put_content(); tz_builder_finish() gives the header to write at offset 0.
 * Checking a whole file, padding and content digests included: tz_verifier_new(). Each is described below,
 * beside its functions.
 *
 * Errors. Functions that can fail return tz_status: TZ_OK (0), TZ_NEED_MORE, or an error. Errors 10 to 19 blame
 *   the caller or the machine, 20 and above the data. Outputs are written only with TZ_OK, unless a function says
 *   otherwise; after an error of an object's function the object is as it was, unless it says otherwise. NULL for an
 *   object or an output is TZ_E_ARGUMENT, as is NULL for bytes whose size is not 0; the few functions without a status
 *   (accessors of pointers, checksums) do not look. A `tz_diagnostic *` may be NULL; else it says where an error is.
 * Ownership. Objects come from *_new or *_open and go with *_free, which accepts NULL. What you pass in is copied, or only
 *   used during the call; your buffers stay yours. Pointers that a function hands out are borrowed: they live as
 *   long as the object they came from and what they point to never changes. Text is UTF-8 with a size, without a final
 *   zero, unless it is `const char *` alone.
 * Memory comes from the system, not from malloc, in proportion to bytes you really gave: sizes that a file only claims
 *   cost nothing. A header takes at most some 20 times its open_size (of a .tensors file with paths 50 times, and
 *   20 MB), a plan some 100 to 200 bytes per chunk.
 *   A failed allocation is TZ_E_MEMORY, and the call may be repeated.
 * Threads. Different objects are independent. Functions that take a const object may run at the same time on the same
 *   object; the others need it alone, with one exception: see tz_header_put_runs(). Freeing needs it alone always.
 * Versions. Structs that begin with struct_size may grow: set it to sizeof and the rest to zero before the call. All
 *   other structs, the functions and the numbers keep their meaning within an ABI version, which tz_abi_version() tells.
 *   The library's version and the format's have nothing to do with each other.
 * Not promised. How a plan cuts its requests, and which bytes tz_chunks_encode() compresses to: both may get better, so
 *   do not compare them with those of another version. (Equal input gives equal files with one version, on every CPU.)
 *   Time that does not depend on the data, and memory that is wiped: nothing here is secret.
 * Sizes and offsets are in bytes; ranges are half-open. Fields named reserved are 0.
 */
#ifndef TZ_H
#define TZ_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The region between the two markers is plain C without preprocessor lines: bindings read it verbatim. */
/* CFFI-BEGIN */

/* ---- Status ------------------------------------------------------------------------------------ */

typedef int32_t tz_status;

enum {
    TZ_OK = 0,
    TZ_NEED_MORE = 1,           /* not an error: more bytes are needed, see the function */

    /* The caller's mistake, or the machine's. */
    TZ_E_ARGUMENT = 10,         /* NULL, an index out of range, sizes that contradict each other */
    TZ_E_MEMORY = 11,           /* an allocation failed; nothing was changed */
    TZ_E_BUFFER_TOO_SMALL = 12, /* *needed says what would do */
    TZ_E_NOT_FOUND = 13,        /* no tensor of that name */
    TZ_E_RUN_MISSING = 14,      /* tz_header_put_runs() has not seen this tensor's chunk entries */
    TZ_E_SEQUENCE = 15,         /* calls in the wrong order, see the function */

    /* The data's mistake. Names and order of checks: section 13 of the specification. */
    TZ_E_NOT_TZ = 20,
    TZ_E_TRUNCATED = 21,
    TZ_E_TRAILING = 22,
    TZ_E_VERSION = 23,
    TZ_E_FEATURE = 24,
    TZ_E_LIMIT = 25,
    TZ_E_CHECKSUM = 26,
    TZ_E_RESERVED = 27,
    TZ_E_DIRECTORY = 28,
    TZ_E_LAYOUT = 29,
    TZ_E_NAME = 30,
    TZ_E_SHAPE = 31,
    TZ_E_ORDER = 32,
    TZ_E_TIE = 33,
    TZ_E_CHUNK = 34,
    TZ_E_CODEC = 35,
    TZ_E_STRUCTURE = 36,
    TZ_E_METADATA = 37,
    TZ_E_DIGEST = 38,
    TZ_E_CONTENT = 39,

    /* Foreign formats. */
    TZ_E_JSON = 50,             /* the header is not the JSON that the format asks for */
    TZ_E_FOREIGN = 51           /* well-formed, but its sizes, names or offsets contradict each other */
};

/* Where an error was found, and in foreign formats why it is one. Fields that say nothing are UINT64_MAX, of rule and
 * name_size 0, of reason NULL; after a call without an error, all. */
typedef struct {
    uint64_t offset;            /* in the file */
    uint64_t tensor;            /* index in the tensor table (of a spec, for builders) */
    uint64_t chunk;             /* number of the chunk within its tensor */
    uint32_t rule;              /* nn of the requirement [TZ1-nn], or 0 */
    uint32_t name_size;         /* of name; without a final zero */
    const char *reason;         /* what is wrong, in words ("its dtype is unknown"): static text with a final zero */
    char name[256];             /* the tensor's, when a file is refused on opening; a longer one is cut and ends with an
                                   ellipsis. It may hold anything that the file does: no UTF-8, escape sequences */
} tz_diagnostic;

enum { TZ_NONE32 = -1 };        /* as uint32_t: 0xFFFFFFFF, "no tensor", "not tied" */

/* A status as a word: "ok", "argument", or the error class of the specification ("checksum", ...);
 * "unknown" for a number that is no status. Static text with a final zero. */
const char *tz_status_name(tz_status status);

/* ---- Version ----------------------------------------------------------------------------------- */

/* The library's version, "major.minor.patch" with an optional suffix. */
const char *tz_version(void);

/* Changes whenever a function, a number or a struct without struct_size changes incompatibly. Compare it with
 * TZ_ABI_VERSION, that of this header, when the library is loaded at run time. */
uint32_t tz_abi_version(void);

enum { TZ_ABI_VERSION = 1 };

/* sizeof a struct of this header as the library was built, by name ("tz_request"); 0 for an unknown name.
 * Bindings whose declarations were written or generated compare these when they load the library. */
size_t tz_struct_size(const char *name);

/* Which kernels this CPU gets: "v4", "v3", "v2", "base", "neon", ... For people and logs. */
const char *tz_cpu_level(void);

/* ---- Checksums --------------------------------------------------------------------------------- */

/* CRC-32C of the bytes, continued from `initial` (0 for a new one). `data` may be NULL when size is 0. */
uint32_t tz_crc32c(uint32_t initial, const void *data, size_t size);

/* The CRC-32 of zlib and gzip, in the same way. Record headers of .tensors files have it. */
uint32_t tz_crc32(uint32_t initial, const void *data, size_t size);

/* BLAKE3-256 of the bytes. */
void tz_blake3(const void *data, size_t size, uint8_t digest[32]);

/* BLAKE3-256 of a stream. The state is plain memory of yours, needs no freeing, and may be copied. */
typedef struct {
    uint64_t opaque[256];
} tz_blake3_state;

void tz_blake3_init(tz_blake3_state *state);
void tz_blake3_update(tz_blake3_state *state, const void *data, size_t size);
void tz_blake3_final(const tz_blake3_state *state, uint8_t digest[32]);

/* ---- Data types -------------------------------------------------------------------------------- */

typedef struct {
    const char *name;           /* as in section 11 of the specification: "bf16" */
    const char *safetensors;    /* "BF16", or NULL when that format has no such type */
    uint32_t unit_bits;         /* size of a storage unit; dimensions count units */
    uint32_t elements;          /* numbers in a unit */
} tz_dtype_info;

/* TZ_E_FEATURE for a code without an entry (codes of the extensible range included). */
tz_status tz_dtype(uint32_t code, tz_dtype_info *out);

/* The code of a name of section 11; 0 when there is none. */
uint32_t tz_dtype_code(const char *name, size_t name_size);

/* ---- Headers: opening -------------------------------------------------------------------------- */

typedef struct tz_header tz_header;

typedef struct {
    uint32_t struct_size;
    uint32_t reserved;
    const uint8_t *pin;         /* file digest, 32 bytes, or NULL; only for tz files. Without it, accidents are
                                   found; with it, no one can change a bit unnoticed */
    uint64_t open_size_max;     /* refuse headers that need more than this (TZ_E_LIMIT); 0: the format's limit */
} tz_open_options;

/* Opens a tz file from the first `front_size` bytes of it. `file_size` is the size of the whole file as its
 * source reports it. `options` may be NULL. The bytes are copied as far as they are needed.
 *   TZ_OK         *out is the header; free it with tz_header_free().
 *   TZ_NEED_MORE  *needed is how many bytes from the front are needed in all (at most file_size);
 *                 call again with as many. Happens at most twice.
 *   otherwise     the file is refused; nothing about it was believed. */
tz_status tz_header_open(const void *front, size_t front_size, uint64_t file_size,
                         const tz_open_options *options, tz_header **out, uint64_t *needed,
                         tz_diagnostic *diagnostic);

/* The same for a single .safetensors file: strictly its format (no duplicate names, no gaps, no trailing
 * bytes). Its tensors have no checksums and no content digests. options->pin must be NULL. */
tz_status tz_safetensors_open(const void *front, size_t front_size, uint64_t file_size,
                              const tz_open_options *options, tz_header **out, uint64_t *needed,
                              tz_diagnostic *diagnostic);

/* The same for a .tensors file, as CoreWeave's Tensorizer writes it (data versions 1 to 5), from its file
 * header and index. Sizes and offsets must follow from one another, and nothing else may be in the file. What lies
 * before each tensor's data is checked when it is there: tz_record_parse(). In a nested file names are as in a tz
 * file and the nodes say how they belong together. options->pin must be NULL. */
tz_status tz_tensors_open(const void *front, size_t front_size, uint64_t file_size,
                          const tz_open_options *options, tz_header **out, uint64_t *needed,
                          tz_diagnostic *diagnostic);

void tz_header_free(tz_header *header);

/* ---- Headers: looking around ------------------------------------------------------------------- */

enum { TZ_FORMAT_TZ = 1, TZ_FORMAT_SAFETENSORS = 2, TZ_FORMAT_TENSORS = 3 };

typedef struct {
    uint32_t struct_size;
    uint32_t format;            /* TZ_FORMAT_* */
    uint32_t tensor_count;
    uint32_t metadata_count;
    uint64_t node_count;        /* of the structure; 0: a flat set of tensors */
    uint64_t chunk_count;
    uint64_t chunk_size;        /* decoded */
    uint64_t file_size;
    uint64_t header_size;
    uint64_t open_size;
    uint64_t decoded_size;      /* sum over all tensors that are not tied */
    uint64_t incompatible_flags;
    uint64_t compatible_flags;
    uint8_t file_digest[32];    /* zero for foreign formats */
    uint32_t is_encrypted;      /* 1: the data must be decrypted by the caller; only .tensors files */
    uint32_t reserved;
} tz_header_info;

tz_status tz_header_get(const tz_header *header, tz_header_info *out);

enum {
    TZ_TENSOR_META = 1,         /* a shape without values: decoded_size is 0 whatever the shape */
    TZ_TENSOR_PARAMETER = 2,    /* of a module */
    TZ_TENSOR_BUFFER = 4,       /* of a module */
    TZ_TENSOR_DOTTED = 8        /* of the root module itself: the file has a dot before the name */
};

typedef struct {
    uint32_t struct_size;
    uint32_t dtype;             /* code */
    const char *name;
    uint64_t name_size;
    const uint64_t *shape;      /* rank dimensions, in storage units */
    uint32_t rank;
    uint32_t order;             /* place in the writer's order */
    uint32_t tie;               /* index of the owner, or TZ_NONE32 */
    uint32_t flags;             /* TZ_TENSOR_*; 0 but in .tensors files */
    uint64_t decoded_size;
    uint64_t stored_size;       /* 0 when tied or empty */
    uint64_t data_offset;
    uint64_t chunk_count;
    const uint8_t *content_digest; /* 32 bytes; NULL for foreign formats */
} tz_tensor;

/* Tensor `index`, in order of names. */
tz_status tz_header_tensor(const tz_header *header, uint32_t index, tz_tensor *out);

/* Index of the tensor with this name: TZ_OK or TZ_E_NOT_FOUND. */
tz_status tz_header_find(const tz_header *header, const char *name, size_t name_size, uint32_t *index);

/* All indices in the writer's order: tensor_count values. */
const uint32_t *tz_header_order(const tz_header *header);

typedef struct {
    const char *key;
    uint64_t key_size;
    const char *value;
    uint64_t value_size;
} tz_pair;

/* Metadata pair `index`, in order of keys. */
tz_status tz_header_pair(const tz_header *header, uint32_t index, tz_pair *out);

enum { TZ_NODE_NONE = 0, TZ_NODE_BOOL = 1, TZ_NODE_INT = 2, TZ_NODE_FLOAT = 3, TZ_NODE_STR = 4,
       TZ_NODE_BYTES = 5, TZ_NODE_TENSOR = 6, TZ_NODE_DICT = 7, TZ_NODE_LIST = 8, TZ_NODE_TUPLE = 9 };
enum { TZ_KEY_NONE = 0, TZ_KEY_STR = 1, TZ_KEY_INT = 2 };

/* A node of the nested structure, section 9 of the specification. */
typedef struct {
    uint32_t kind;              /* TZ_NODE_* */
    uint32_t key_kind;          /* TZ_KEY_* */
    uint64_t key;               /* size of key_bytes, or an int64_t */
    uint64_t value;             /* size of value_bytes, child count, tensor index, int64_t, bits of a double */
    const uint8_t *key_bytes;   /* NULL unless TZ_KEY_STR */
    const uint8_t *value_bytes; /* NULL unless TZ_NODE_STR or TZ_NODE_BYTES */
} tz_node;

/* Node `index`, in preorder. */
tz_status tz_header_node(const tz_header *header, uint64_t index, tz_node *out);

/* The content digest of the whole file (section 12). TZ_E_FEATURE for foreign formats. */
tz_status tz_header_content_digest(const tz_header *header, uint8_t digest[32]);

/* ---- Chunk entries ----------------------------------------------------------------------------- */

typedef struct {
    uint64_t offset;
    uint64_t size;
} tz_range;

/* Which ranges of the file hold the chunk entries of these tensors, as far as tz_header_put_runs() has not
 * seen them yet: ascending, joined where the gap between two is at most gap_max. `tensors` NULL: of all.
 * *needed gets the number of ranges, also with TZ_E_BUFFER_TOO_SMALL; at most one per tensor. Foreign formats need none. */
tz_status tz_header_run_ranges(const tz_header *header, const uint32_t *tensors, size_t tensor_count,
                               uint64_t gap_max, tz_range *out, size_t capacity, size_t *needed);

/* Takes bytes of the file that begin at `offset`: every run that lies wholly inside is checked and kept, until
 * the header is freed. Runs that do not, and bytes that are no runs, are passed over. On an error no run of a bad tensor
 * is kept. While it runs, no other thread may be in tz_header_put_runs(), tz_header_run_ranges(), tz_header_chunk() or
 * tz_plan_new() with this header; all else may go on, above all tz_plan_process() of plans made before, and verifiers. */
tz_status tz_header_put_runs(tz_header *header, uint64_t offset, const void *bytes, size_t size,
                             tz_diagnostic *diagnostic);

typedef struct {
    uint64_t offset;            /* in the file */
    uint32_t stored_length;
    uint32_t decoded_length;
    uint32_t codec;
    uint32_t crc;
    const uint8_t *digest;      /* 32 bytes; NULL for foreign formats */
} tz_chunk;

/* One chunk of a tensor that has chunks. TZ_E_RUN_MISSING before its run was put. */
tz_status tz_header_chunk(const tz_header *header, uint32_t tensor, uint64_t chunk, tz_chunk *out);

/* ---- Record headers of .tensors files ---------------------------------------------------------- */

/* Where the record header of a tensor lies: right before its data. TZ_E_ARGUMENT in other formats. A plan can
 * fetch it with the data: TZ_WANT_RECORD. */
tz_status tz_header_record(const tz_header *header, uint32_t tensor, tz_range *out);

enum { TZ_RECORD_CRC32 = 1 };   /* there is a CRC-32 (of zlib, not CRC-32C) */

/* What a record header says beside the index. Pointers point into the record header. The hashes are over the first
 * hashed_size bytes of `hashed` and then the tensor's data, decrypted. Encrypted data are cipher_chunk_count pieces of
 * cipher_chunk_size bytes, the last one shorter. Each is a secretbox of NaCl (XSalsa20-Poly1305) without its tag: the
 * 16 bytes at tags + 16 * i. The nonce of piece i is `nonce` + i, as a little-endian number of 24 bytes. */
typedef struct {
    uint32_t struct_size;
    uint32_t module;            /* a number that the writer gave */
    uint32_t flags;             /* TZ_RECORD_* */
    uint32_t crc32;
    const uint8_t *sha256;      /* 32 bytes, or NULL */
    uint64_t hashed_size;
    uint64_t cipher_chunk_size;
    uint64_t cipher_chunk_count;
    const uint8_t *nonce;       /* 24 bytes; NULL: the data are not encrypted */
    const uint8_t *tags;
    uint64_t opslimit;          /* key = Argon2id of a passphrase, as crypto_pwhash of libsodium, with these limits. They come */
    uint64_t memlimit;          /* from the file: have limits of your own for them */
    const uint8_t *salt;        /* 16 bytes; NULL: the key is not from a passphrase */
} tz_record;

/* Parses the record header of a tensor, `size` bytes that tz_header_record() told, and compares it with the index.
 * `hashed` is memory of that size too and gets what the hashes cover before the data. Computes no hash and decrypts nothing.
 * A tensor with data in an encrypted file must be encrypted, otherwise TZ_E_FOREIGN. */
tz_status tz_record_parse(const tz_header *header, uint32_t tensor, const void *record, size_t size, void *hashed,
                          tz_record *out, tz_diagnostic *diagnostic);

/* ---- Plans: what to read, and where it goes ---------------------------------------------------- */

enum { TZ_WANT_RECORD = 1 };    /* not the tensor but its record header, see tz_header_record() */

/* A tensor, or a box of it: rows [begin[0], end[0]), and so on. Both NULL: all of it. A box is delivered
 * contiguous, in row-major order. */
typedef struct {
    uint32_t tensor;
    uint32_t flags;             /* TZ_WANT_*; a record header has no boxes */
    const uint64_t *begin;      /* rank values each */
    const uint64_t *end;
} tz_want;

enum {
    /* Everything is received and decoded in the request's staging memory, for callers that carry it on
     * (to a device): tz_plan_pieces() says what lies where. Wanted boxes must then be contiguous in the tensor. */
    TZ_PLAN_STAGED = 1
};

typedef struct {
    uint32_t struct_size;
    uint32_t flags;             /* TZ_PLAN_* */
    uint64_t request_size_max;  /* a request grows until the next chunk would exceed this; 0: 16 MiB */
    uint64_t gap_max;           /* unwanted bytes worth reading through between two chunks; 0: 64 KiB */
    uint64_t slab_size_max;     /* tensors small enough share allocations of about this size; 0: none share */
    uint64_t slab_tensor_max;   /* the largest decoded size of a tensor that shares */
} tz_plan_options;

typedef struct tz_plan tz_plan;

/* Plans the reading of `wants`, whose runs must have been put. The header must outlive the plan; wants and options
 * are copied. The plan never changes afterwards. Tied tensors that are wanted whole share one placement with their owner. */
tz_status tz_plan_new(const tz_header *header, const tz_want *wants, size_t want_count,
                      const tz_plan_options *options, tz_plan **out, tz_diagnostic *diagnostic);

void tz_plan_free(tz_plan *plan);

typedef struct {
    uint32_t struct_size;
    uint32_t request_count;
    uint64_t segment_count;
    uint64_t piece_count;       /* 0 unless TZ_PLAN_STAGED */
    uint32_t allocation_count;  /* 0 with TZ_PLAN_STAGED */
    uint32_t reserved;
    uint64_t staging_size_max;  /* the largest staging_size of a request */
    uint64_t gap_size_max;      /* the largest segment to be thrown away */
    uint64_t bytes_read;        /* sum of the requests */
    uint64_t bytes_wanted;      /* sum of the wants, decoded; shared placements counted once */
} tz_plan_info;

tz_status tz_plan_get(const tz_plan *plan, tz_plan_info *out);

/* One range of the file, to be read front to back into its segments. Requests ascend and do not overlap; they may be
 * read in any order, at the same time. */
typedef struct {
    uint64_t offset;
    uint64_t size;
    uint64_t segment_begin;
    uint64_t piece_begin;
    uint32_t segment_count;
    uint32_t piece_count;
    uint64_t staging_size;      /* staging memory that this request needs, 0 if none */
} tz_request;

enum { TZ_TO_STAGING = -1, TZ_TO_NOWHERE = -2 }; /* as uint32_t, in tz_segment.allocation */

/* Where consecutive bytes of a request go: to a position in an allocation, to a position in the request's staging memory,
 * or nowhere (read and forget). The segments of a request cover it without gaps. */
typedef struct {
    uint64_t size;
    uint64_t position;
    uint32_t allocation;        /* index, TZ_TO_STAGING or TZ_TO_NOWHERE */
    uint32_t reserved;
} tz_segment;

/* Where the decoded bytes of a want lie: one per want, in the order of the wants. */
typedef struct {
    uint64_t position;
    uint64_t size;
    uint32_t allocation;        /* TZ_NONE32 when size is 0 or the plan is staged */
    uint32_t reserved;
} tz_placement;

/* With TZ_PLAN_STAGED: after tz_plan_process() the bytes [position, position + size) of the request's staging memory are
 * the bytes of want `want` from `want_offset` on. For a tied tensor only the first of its wants is named. */
typedef struct {
    uint64_t want_offset;
    uint64_t size;
    uint64_t position;
    uint32_t want;
    uint32_t reserved;
} tz_piece;

const tz_request *tz_plan_requests(const tz_plan *plan);
const tz_segment *tz_plan_segments(const tz_plan *plan);
const tz_piece *tz_plan_pieces(const tz_plan *plan);
const tz_placement *tz_plan_placements(const tz_plan *plan);
/* The size of each allocation, which you make, aligned to 64 or more, before the first tz_plan_process(). */
const uint64_t *tz_plan_allocations(const tz_plan *plan);

/* CRC finds accidents and costs next to nothing; the digest is for pinned files. */
enum { TZ_VERIFY_NONE = 0, TZ_VERIFY_CRC = 1, TZ_VERIFY_DIGEST = 2 };

/* Checks and decodes the chunks of request `request` that lie in its first `received` bytes, from chunk *next on; *next is 0 before the
 * first call and is advanced, also on errors. Call it as bytes arrive, while they are still in cache, or once at the end.
 * `staging` is the request's staging memory (NULL if it needs none), `allocations` the address of each allocation (NULL with
 * TZ_PLAN_STAGED). Many threads may process different requests of a plan at once.
 * On an error the destinations hold rubbish: hand nothing out. The diagnostic names tensor and chunk. */
tz_status tz_plan_process(const tz_plan *plan, uint32_t request, uint64_t received, void *staging,
                          void *const *allocations, uint32_t verify, uint64_t *next,
                          tz_diagnostic *diagnostic);

/* ---- Checking whole files ---------------------------------------------------------------------- */

typedef struct tz_verifier tz_verifier;

/* Checks everything about a tz file: both checksums of every chunk, content digests, padding, flags; in the order that the
 * specification gives, so that its verdict is the one every implementation reports. The header must outlive it and needs no
 * runs. Loop: tz_verifier_next(), read that range, tz_verifier_put(); when the range is empty, tz_verifier_finish(). */
tz_status tz_verifier_new(const tz_header *header, tz_verifier **out);

void tz_verifier_free(tz_verifier *verifier);

/* Which range of the file to put next: at most 16 MiB or one chunk or one tensor's run; size 0 when nothing is left. */
tz_status tz_verifier_next(tz_verifier *verifier, tz_range *out, tz_diagnostic *diagnostic);

/* Takes exactly the bytes of that range. After an error the verifier is of no more use. */
tz_status tz_verifier_put(tz_verifier *verifier, const void *bytes, size_t size, tz_diagnostic *diagnostic);

/* TZ_OK: the file is whole. TZ_E_SEQUENCE before everything was put. */
tz_status tz_verifier_finish(tz_verifier *verifier, tz_diagnostic *diagnostic);

/* ---- Writing ----------------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    uint64_t name_size;
    const uint64_t *shape;      /* rank dimensions, in storage units */
    uint32_t rank;
    uint32_t dtype;             /* code */
    uint32_t tie;               /* index of another spec with the same dtype and shape whose data it shares, or TZ_NONE32 */
    uint32_t reserved;          /* 0 */
} tz_tensor_spec;

typedef struct {
    uint32_t struct_size;
    uint32_t chunk_size_log2;   /* 16 to 26; 0: the default for this amount of data */
    const tz_pair *metadata;    /* in any order, keys all different */
    uint64_t metadata_count;
    const tz_node *nodes;       /* preorder; tensor nodes name the index of a spec */
    uint64_t node_count;        /* 0: flat */
} tz_builder_options;

typedef struct tz_builder tz_builder;

/* Lays out a file of these tensors, in this (the writer's) order. Everything is copied. The specs are checked as a reader would check
 * the file; diagnostic->tensor names the spec. Ties may name any spec of the group; the owner becomes the smallest name. */
tz_status tz_builder_new(const tz_tensor_spec *specs, size_t spec_count, const tz_builder_options *options,
                         tz_builder **out, tz_diagnostic *diagnostic);

void tz_builder_free(tz_builder *builder);

typedef struct {
    uint32_t struct_size;
    uint32_t reserved;
    uint64_t header_size;       /* data begins at or after this offset */
    uint64_t chunk_size;
    uint64_t chunk_count;
    uint64_t decoded_size;      /* sum over all tensors that have data of their own */
    uint64_t file_size_max;     /* what the file will have at most */
} tz_builder_info;

tz_status tz_builder_get(const tz_builder *builder, tz_builder_info *out);

/* 1 when this spec's data must be put, 0 when it is empty or another spec of its tie has the data: of several
 * tied specs, the owner (smallest name) has it. */
uint32_t tz_builder_has_data(const tz_builder *builder, uint32_t spec);

enum { TZ_COMPRESS_OFF = 0, TZ_COMPRESS_AUTO = 1 };

/* A chunk as it goes into the file. */
typedef struct {
    uint32_t stored_length;
    uint32_t codec;
    uint32_t crc;
    uint32_t reserved;
    uint8_t digest[32];
} tz_entry;

/* Encodes `size` decoded bytes of one tensor, beginning at a chunk border: all whole chunks, and the last, shorter one if the tensor ends
 * here. `entries` gets one per chunk. Then `out` holds the chunks as they lie in the file (each at a multiple of 64, zeros between) and
 * *out_size their size; but when every chunk is raw nothing is copied, *out_size is 0 and the source itself is what lies in the file.
 * out_capacity must be at least `size` + 64. Every compressed chunk was decoded again and compared. Thread-safe.
 * TZ_E_CODEC means that this comparison failed: a fault in libtz or in the machine. */
tz_status tz_chunks_encode(uint32_t dtype, uint64_t chunk_size, uint32_t compress, const void *source, size_t size,
                           void *out, size_t out_capacity, size_t *out_size, tz_entry *entries, size_t entry_count);

/* Appends chunks to the file: specs with data in their order, each one's chunks in theirs, otherwise TZ_E_SEQUENCE. *offset is where the first of
 * them lies in the file; the others follow at multiples of 64. */
tz_status tz_builder_put_chunks(tz_builder *builder, uint32_t spec, const tz_entry *entries, size_t count,
                                uint64_t *offset);

/* The BLAKE3 of the spec's decoded bytes, once for each spec with data. */
tz_status tz_builder_put_content(tz_builder *builder, uint32_t spec, const uint8_t digest[32]);

/* The header, when all chunks and digests were put (else TZ_E_SEQUENCE). `out` may be NULL to learn *needed. */
tz_status tz_builder_finish(const tz_builder *builder, void *out, size_t capacity, size_t *needed,
                            uint64_t *file_size, uint8_t file_digest[32]);

/* CFFI-END */

#ifdef __cplusplus
}
#endif

#endif
