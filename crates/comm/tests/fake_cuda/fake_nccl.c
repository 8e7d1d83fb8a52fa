/* A double of libnccl.so.2: the calls that the NCCL communicator makes, non-blocking, between processes of one host
 * through shared memory that the unique id names. Ranks that do not make the same call with the same length get an
 * error, and so do operations on a library's memory that are not put behind the default stream. FAKE_NCCL_VERSION is what
 * ncclGetVersion says; FAKE_NCCL_FAIL_AT=N fails this process's N-th operation, FAKE_NCCL_DIE_AT=N kills rank 1 of the
 * world at its N-th, and FAKE_NCCL_DELAY_US makes every operation take so long, with its memory untouched before the end. A
 * line of FAKE_CUDA_LOG says how many operations a communicator had on a library's memory. */
#define _GNU_SOURCE
#include "fake_cuda.h"
#include <fcntl.h>
#include <signal.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { SUCCESS = 0, SYSTEM_ERROR = 2, INVALID_ARGUMENT = 4, INVALID_USAGE = 5, REMOTE_ERROR = 6, IN_PROGRESS = 7 };
enum { SLOT = 1 << 20, MOST_RANKS = 16 };
enum kind { ALL_REDUCE = 1, ALL_GATHER, BROADCAST, POINT };

typedef struct { char internal[128]; } unique_id;
typedef struct { size_t size; unsigned magic, version; int blocking; } config;

struct shared {
    int joined, arrived, round;
    struct { int kind, root; size_t count; } said[MOST_RANKS];
    char slot[MOST_RANKS][SLOT];
};

struct comm {
    struct shared *shared;
    char name[64];
    int rank, ranks, state, aborted, direct;
    pthread_t thread;
};

static int operations;

static int state_of(struct comm *comm) { return __atomic_load_n(&comm->state, __ATOMIC_ACQUIRE); }
static void set_state(struct comm *comm, int state) { __atomic_store_n(&comm->state, state, __ATOMIC_RELEASE); }
static int is_aborted(struct comm *comm) { return __atomic_load_n(&comm->aborted, __ATOMIC_ACQUIRE); }

int ncclGetVersion(int *version) {
    const char *said = getenv("FAKE_NCCL_VERSION");
    *version = said ? atoi(said) : 22809;
    return SUCCESS;
}

const char *ncclGetErrorString(int result) {
    return result == INVALID_USAGE ? "invalid usage" : result == REMOTE_ERROR ? "remote process exited" : "an error";
}
const char *ncclGetLastError(void *comm) { (void)comm; return "said by the double"; }

int ncclGetUniqueId(unique_id *id) {
    static int made;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    memset(id, 0, sizeof *id);
    snprintf(id->internal, sizeof id->internal, "/fake-nccl-%d-%d-%lx", (int)getpid(),
             __atomic_add_fetch(&made, 1, __ATOMIC_RELAXED), (long)now.tv_nsec);
    return SUCCESS;
}

/* Waits for all ranks; 0 when it was given up. */
static int meet(struct comm *comm) {
    struct shared *shared = comm->shared;
    int round = __atomic_load_n(&shared->round, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&shared->arrived, 1, __ATOMIC_ACQ_REL) == comm->ranks) {
        __atomic_store_n(&shared->arrived, 0, __ATOMIC_RELEASE);
        __atomic_add_fetch(&shared->round, 1, __ATOMIC_ACQ_REL);
        return 1;
    }
    for (int spins = 0; __atomic_load_n(&shared->round, __ATOMIC_ACQUIRE) == round; spins++) {
        if (is_aborted(comm)) return 0;
        usleep(spins < 50 ? 1 : 50);
    }
    return 1;
}

static void *join(void *argument) {
    struct comm *comm = argument;
    int file = shm_open(comm->name, O_RDWR | O_CREAT, 0600);
    if (file < 0 || ftruncate(file, sizeof(struct shared))) {
        set_state(comm, SYSTEM_ERROR);
        return NULL;
    }
    comm->shared = mmap(NULL, sizeof(struct shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    __atomic_add_fetch(&comm->shared->joined, 1, __ATOMIC_ACQ_REL);
    while (__atomic_load_n(&comm->shared->joined, __ATOMIC_ACQUIRE) < comm->ranks && !is_aborted(comm)) usleep(50);
    shm_unlink(comm->name);
    usleep(2000);
    set_state(comm, SUCCESS);
    return NULL;
}

int ncclCommInitRankConfig(struct comm **made, int ranks, unique_id id, int rank, config *config) {
    if (config->magic != 0xcafebeef || config->blocking != 0 || ranks > MOST_RANKS || rank >= ranks)
        return INVALID_ARGUMENT;
    struct comm *comm = calloc(1, sizeof *comm);
    comm->rank = rank;
    comm->ranks = ranks;
    comm->state = IN_PROGRESS;
    snprintf(comm->name, sizeof comm->name, "%.63s", id.internal);
    pthread_create(&comm->thread, NULL, join, comm);
    fake_count(1);
    *made = comm;
    return IN_PROGRESS;
}

int ncclCommGetAsyncError(struct comm *comm, int *state) { *state = state_of(comm); return SUCCESS; }

int ncclCommFinalize(struct comm *comm) { return state_of(comm) == SUCCESS ? SUCCESS : INVALID_USAGE; }

int ncclCommDestroy(struct comm *comm) {
    pthread_join(comm->thread, NULL);
    if (comm->direct) fake_log("direct %d", comm->direct);
    if (comm->shared) munmap(comm->shared, sizeof *comm->shared);
    free(comm);
    fake_count(-1);
    return SUCCESS;
}

/* Work of it may still be on a stream, so its memory stays. */
int ncclCommAbort(struct comm *comm) {
    __atomic_store_n(&comm->aborted, 1, __ATOMIC_RELEASE);
    fake_log("aborted");
    return SUCCESS;
}

struct operation { struct comm *comm; enum kind kind; const char *from; char *to; size_t length; int root; };

static void sum(int64_t *to, const int64_t *from, size_t count) {
    for (size_t i = 0; i < count; i++) to[i] = (int64_t)((uint64_t)to[i] + (uint64_t)from[i]);
}

/* What a rank takes of the part that all have put into their slots. */
static void collect(const struct operation *op, size_t start, size_t part) {
    struct comm *comm = op->comm;
    struct shared *shared = comm->shared;
    if (op->kind == ALL_REDUCE) {
        memset(op->to + start, 0, part);
        for (int rank = 0; rank < comm->ranks; rank++)
            sum((int64_t *)(op->to + start), (int64_t *)shared->slot[rank], part / 8);
    } else if (op->kind == ALL_GATHER) {
        for (int rank = 0; rank < comm->ranks; rank++)
            memcpy(op->to + rank * op->length + start, shared->slot[rank], part);
    } else if (op->to) {
        memcpy(op->to + start, shared->slot[op->root], part);
    }
}

static void run(void *argument) {
    struct operation *op = argument;
    struct comm *comm = op->comm;
    struct shared *shared = comm->shared;
    const char *delay = getenv("FAKE_NCCL_DELAY_US");
    if (delay) usleep((unsigned)atoi(delay));
    shared->said[comm->rank].kind = op->kind;
    shared->said[comm->rank].root = op->root;
    shared->said[comm->rank].count = op->length;
    int goes_on = meet(comm);
    for (int rank = 0; goes_on && rank < comm->ranks; rank++)
        if (shared->said[rank].kind != (int)op->kind || shared->said[rank].root != op->root
            || shared->said[rank].count != op->length) {
            set_state(comm, INVALID_USAGE);
            /* As on a device: the work never ends. */
            while (!is_aborted(comm)) usleep(100);
            goes_on = 0;
        }
    for (size_t start = 0; goes_on && start < op->length; start += SLOT) {
        size_t part = op->length - start < SLOT ? op->length - start : SLOT;
        if (op->from) memcpy(shared->slot[comm->rank], op->from + start, part);
        if (!(goes_on = meet(comm))) break;
        collect(op, start, part);
        goes_on = meet(comm);
    }
    free(op);
}

/* A call that was accepted, and is put on the stream a little later. */
struct launch { struct operation *op; void *stream; };

static void *launch(void *argument) {
    struct launch *launch = argument;
    struct comm *comm = launch->op->comm;
    usleep(30);
    fake_stream_push(launch->stream, run, launch->op);
    free(launch);
    set_state(comm, SUCCESS);
    return NULL;
}

static int start(struct operation asked, size_t room, void *stream) {
    const char *fails = getenv("FAKE_NCCL_FAIL_AT");
    int number = __atomic_add_fetch(&operations, 1, __ATOMIC_RELAXED);
    if (state_of(asked.comm) != SUCCESS) return INVALID_USAGE;
    if ((asked.from && !fake_is_device(asked.from, asked.length)) || (asked.to && !fake_is_device(asked.to, room)))
        return INVALID_ARGUMENT;
    if ((asked.from && fake_is_foreign(asked.from, asked.length)) || (asked.to && fake_is_foreign(asked.to, room))) {
        asked.comm->direct++;
        if (!fake_stream_is_behind_default(stream)) return INVALID_USAGE;
    }
    if (fails && atoi(fails) == number) {
        set_state(asked.comm, REMOTE_ERROR);
        return IN_PROGRESS;
    }
    const char *dies = getenv("FAKE_NCCL_DIE_AT"), *rank = getenv("OMPI_COMM_WORLD_RANK");
    if (dies && atoi(dies) == number && rank && !strcmp(rank, "1")) raise(SIGKILL);
    struct operation *op = malloc(sizeof *op);
    *op = asked;
    /* Now and then at once, as NCCL does. */
    if (number % 3 == 0) {
        fake_stream_push(stream, run, op);
        return SUCCESS;
    }
    struct launch *later = malloc(sizeof *later);
    *later = (struct launch){ op, stream };
    set_state(asked.comm, IN_PROGRESS);
    pthread_t thread;
    pthread_create(&thread, NULL, launch, later);
    pthread_detach(thread);
    return IN_PROGRESS;
}

int ncclAllReduce(const void *from, void *to, size_t count, int type, int op, struct comm *comm, void *stream) {
    if (type != 4 || op != 0) return INVALID_ARGUMENT;
    return start((struct operation){ comm, ALL_REDUCE, from, to, count * 8, 0 }, count * 8, stream);
}
int ncclAllGather(const void *from, void *to, size_t count, int type, struct comm *comm, void *stream) {
    if (type != 1) return INVALID_ARGUMENT;
    return start((struct operation){ comm, ALL_GATHER, from, to, count, 0 }, count * (size_t)comm->ranks, stream);
}
int ncclBroadcast(const void *from, void *to, size_t count, int type, int root, struct comm *comm, void *stream) {
    if (type != 1) return INVALID_ARGUMENT;
    from = comm->rank == root ? from : NULL;
    return start((struct operation){ comm, BROADCAST, from, to, count, root }, count, stream);
}
int ncclSend(const void *from, size_t count, int type, int peer, struct comm *comm, void *stream) {
    if (type != 1 || comm->ranks != 2 || peer != 1 - comm->rank) return INVALID_ARGUMENT;
    return start((struct operation){ comm, POINT, from, NULL, count, comm->rank }, 0, stream);
}
int ncclRecv(void *to, size_t count, int type, int peer, struct comm *comm, void *stream) {
    if (type != 1 || comm->ranks != 2 || peer != 1 - comm->rank) return INVALID_ARGUMENT;
    return start((struct operation){ comm, POINT, NULL, to, count, peer }, count, stream);
}
