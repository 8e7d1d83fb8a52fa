/* What the doubles of the driver and of NCCL share. Memory of the "device" is the host's. */
#ifndef FAKE_CUDA_H
#define FAKE_CUDA_H
#include <stddef.h>

/* Puts work on a stream, to be done after what is there. */
void fake_stream_push(void *stream, void (*work)(void *), void *argument);
/* Whether all of the range is device memory. */
int fake_is_device(const void *start, size_t length);
/* Whether it is device memory that the driver's user did not take here, but a library beside it. */
int fake_is_foreign(const void *start, size_t length);
/* Whether a stream was told to wait for the default stream since this was last asked. */
int fake_stream_is_behind_default(void *stream);
/* Counts something that must be gone before the context is: +1 made, -1 given up. */
void fake_count(int change);
/* A line in the file that FAKE_CUDA_LOG names. */
void fake_log(const char *format, ...);
#endif
