/* Writes a file with libtz and reads its tensors again. The file is in memory, without any I/O;
 * bindings/c/tz_show.c reads a real file. */
#include "tz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static tz_diagnostic diagnostic = {.struct_size = sizeof diagnostic};

static void check(tz_status status, const char *what)
{
    if (status == TZ_OK)
        return;
    fprintf(stderr, "%s: %s (rule %u)\n", what, tz_status_text(status), (unsigned)diagnostic.rule);
    exit(1);
}

static void *allocate(size_t size)
{
    void *memory = malloc(size ? size : 1);
    if (memory == NULL)
        exit(2);
    return memory;
}

/* Makes a file with one tensor, f32[2, 3], in new memory. */
static unsigned char *write_file(const float *values, size_t *file_size)
{
    static const uint64_t shape[] = {2, 3};
    const size_t size = 6 * sizeof *values;
    tz_tensor_spec spec = {.struct_size = sizeof spec};
    spec.name = "weight";
    spec.name_size = 6;
    spec.shape = shape;
    spec.rank = 2;
    spec.dtype = tz_dtype_code("f32", 3);
    spec.tie = (uint32_t)TZ_NONE32;

    tz_builder *builder;
    check(tz_builder_new(&spec, 1, NULL, &builder, &diagnostic), "new builder");
    tz_builder_info info = {.struct_size = sizeof info};
    check(tz_builder_get(builder, &info), "get builder");
    unsigned char *file = allocate((size_t)info.file_size_max);
    memset(file, 0, (size_t)info.file_size_max);

    /* One chunk. If it stays raw, image_size is 0, and the source is written to the file. */
    const tz_encode_options options = {.struct_size = sizeof options,
                                       .dtype = spec.dtype,
                                       .compress = TZ_COMPRESS_AUTO,
                                       .chunk_size = info.chunk_size};
    const size_t bound = tz_chunks_encode_bound(&options, size);
    unsigned char *image = allocate(bound);
    size_t image_size;
    tz_chunk_entry entry = {.struct_size = sizeof entry};
    check(tz_chunks_encode(&options, values, size, image, bound, &image_size, &entry, 1),
          "encode");
    uint64_t offset;
    check(tz_builder_put_chunks(builder, 0, &entry, 1, &offset), "put chunks");
    memcpy(file + offset, image_size ? (void *)image : (void *)values, entry.stored_length);
    free(image);

    uint8_t content[32];
    tz_blake3(values, size, content);
    check(tz_builder_put_content(builder, 0, content), "put content");

    size_t needed;
    uint64_t whole;
    check(tz_builder_finish(builder, file, (size_t)info.header_size, &needed, &whole, NULL),
          "finish");
    tz_builder_free(builder);
    *file_size = (size_t)whole;
    return file;
}

static tz_header *open_file(const unsigned char *file, size_t file_size)
{
    tz_header *header;
    uint64_t size = 128;
    tz_status status;
    do /* a real program would read the first `size` bytes here */
        status = tz_header_open(file, (size_t)size, file_size, NULL, &header, &size, &diagnostic);
    while (status == TZ_NEED_MORE);
    check(status, "open");
    return header;
}

/* Reads one tensor into new memory. */
static void *read_tensor(tz_header *header, uint32_t tensor, const unsigned char *file)
{
    tz_range range;
    size_t range_count;
    check(tz_header_entry_ranges(header, &tensor, 1, 0, &range, 1, &range_count),
          "ask for chunk entries");
    if (range_count == 1)
        check(tz_header_put_entries(header, range.offset, file + range.offset, (size_t)range.size,
                                    &diagnostic),
              "put chunk entries");

    const tz_read_item item = {.struct_size = sizeof item, .tensor = tensor};
    tz_plan *plan;
    check(tz_plan_new(header, &item, 1, NULL, &plan, &diagnostic), "plan");
    tz_plan_info info = {.struct_size = sizeof info};
    check(tz_plan_get(plan, &info), "get plan");
    /* One tensor that is not empty, without slabs: one allocation. */
    void *values = allocate((size_t)tz_plan_allocations(plan)[0]);
    unsigned char *staging = allocate((size_t)info.staging_size_max);

    for (uint32_t number = 0; number < info.request_count; number++) {
        const tz_request *request = &tz_plan_requests(plan)[number];
        const unsigned char *source = file + request->offset;
        for (uint32_t index = 0; index < request->segment_count; index++) {
            const tz_segment *segment = &tz_plan_segments(plan)[request->segment_begin + index];
            if (segment->allocation == (uint32_t)TZ_TO_STAGING)
                memcpy(staging + segment->position, source, (size_t)segment->size);
            else if (segment->allocation != (uint32_t)TZ_TO_NOWHERE)
                memcpy((unsigned char *)values + segment->position, source, (size_t)segment->size);
            source += segment->size;
        }
        uint64_t next = 0;
        check(tz_plan_process(plan, number, request->size, staging, &values, TZ_VERIFY_DIGEST,
                              &next, &diagnostic),
              "process");
    }
    free(staging);
    tz_plan_free(plan);
    return values;
}

int main(void)
{
    static const float values[6] = {1, 2, 3, 4, 5, 6};
    if (tz_abi_version() != TZ_ABI_VERSION || tz_struct_size("tz_request") != sizeof(tz_request))
        return 3;
    size_t file_size;
    unsigned char *file = write_file(values, &file_size);
    tz_header *header = open_file(file, file_size);

    uint32_t index;
    check(tz_header_find(header, "weight", 6, &index), "find");
    tz_tensor tensor = {.struct_size = sizeof tensor};
    check(tz_header_tensor(header, index, &tensor), "look");
    void *read = read_tensor(header, index, file);
    if (tensor.decoded_size != sizeof values || memcmp(read, values, sizeof values) != 0) {
        fprintf(stderr, "the tensor changed on its way\n");
        return 4;
    }
    free(read);
    tz_header_free(header);
    free(file);
    return 0;
}
