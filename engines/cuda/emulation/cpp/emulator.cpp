// Runs blocks of fibers; see cuda_on_cpu.h. One launch at a time.
#include "cuda_on_cpu.h"

#include "answer.cu"
#include "gather.cu"
#include "greedy_nms.cu"
#include "letterbox.cu"
#include "matrix_nms.cu"
#include "score.cu"
#include "sort.cu"

#include <cstdint>
#include <cstdio>
#include <memory>
#include <numeric>
#include <random>
#include <setjmp.h>
#include <ucontext.h>
#include <vector>

Index threadIdx, blockIdx, blockDim, gridDim;

extern "C" unsigned char __start_block_shared[], __stop_block_shared[];

namespace {

constexpr size_t STACK = 64 * 1024;

// A thread of a block. It outlives the block: when one ends, it waits for the next.
struct Fiber {
    std::unique_ptr<unsigned char[]> stack;
    jmp_buf place;
    unsigned thread;
    bool begun = false, ended = false;
    const char *file; // of the barrier where it waits
    int line;
};

std::vector<std::unique_ptr<Fiber>> fibers;
Fiber *running;
jmp_buf scheduler;
void (*body)(const void *arguments);
const void *body_arguments;

// Back to whoever resumed this fiber, until it is resumed again. Unlike swapcontext these jumps ask nothing of the system.
void yield() {
    if (_setjmp(running->place) == 0) _longjmp(scheduler, 1);
    threadIdx.x = running->thread;
}

void live() {
    for (;;) {
        body(body_arguments);
        running->ended = true;
        yield();
    }
}

void resume(Fiber &fiber) {
    running = &fiber;
    threadIdx.x = fiber.thread;
    if (_setjmp(scheduler) != 0) return;
    if (fiber.begun) _longjmp(fiber.place, 1);
    fiber.begun = true;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = fiber.stack.get();
    context.uc_stack.ss_size = STACK;
    context.uc_link = nullptr;
    makecontext(&context, live, 0);
    setcontext(&context);
}

void prepare(unsigned threads) {
    while (fibers.size() < threads) {
        auto fiber = std::make_unique<Fiber>();
        fiber->stack.reset(new unsigned char[STACK]);
        fiber->thread = (unsigned)fibers.size();
        fibers.push_back(std::move(fiber));
    }
}

struct Entry {
    const char *name;
    size_t bytes;
    void (*run)(const void *arguments);
};

template <typename Arguments, void (*kernel)(Arguments)> Entry entry(const char *name) {
    return Entry{name, sizeof(Arguments), [](const void *arguments) { kernel(*(const Arguments *)arguments); }};
}

const Entry entries[] = {
    entry<LetterboxArguments, letterbox>("letterbox"),
    entry<Work, score>("score"),
    entry<SortArguments, sort>("sort"),
    entry<Work, gather>("gather"),
    entry<Work, matrix_overlap>("matrix_overlap"),
    entry<Work, matrix_decay>("matrix_decay"),
    entry<Work, greedy_nms>("greedy_nms"),
    entry<Work, answer>("answer"),
};

// Runs all fibers to their next barrier or end. True while they wait at one barrier.
bool advance(std::mt19937 &random, unsigned threads, char *error, size_t length) {
    std::vector<unsigned> order(threads);
    std::iota(order.begin(), order.end(), 0u);
    for (unsigned at = threads - 1; at > 0; at--) std::swap(order[at], order[random() % (at + 1)]);
    for (unsigned thread : order) resume(*fibers[thread]);
    const Fiber &first = *fibers[0];
    for (unsigned thread = 1; thread < threads; thread++) {
        const Fiber &fiber = *fibers[thread];
        bool together = fiber.ended == first.ended && (first.ended || fiber.line == first.line) &&
                        (first.ended || std::strcmp(fiber.file, first.file) == 0);
        if (!together) {
            auto place = [](const Fiber &f) { return f.ended ? "its end" : f.file; };
            std::snprintf(error, length, "block (%u, %u): thread 0 is at %s:%d, thread %u at %s:%d", blockIdx.x, blockIdx.y,
                          place(first), first.line, thread, place(fiber), fiber.line);
            return false;
        }
    }
    return !first.ended;
}

} // namespace

void emulator_barrier(const char *file, int line) {
    running->file = file;
    running->line = line;
    yield();
}

// Bytes of a kernel's argument; 0 for one that is not there.
extern "C" size_t emulator_argument_bytes(const char *name) {
    for (const Entry &entry : entries)
        if (std::strcmp(entry.name, name) == 0) return entry.bytes;
    return 0;
}

// Runs a kernel, its blocks in an order of chance. 0, or 1 with what is wrong in `error`.
extern "C" int emulator_launch(const char *name, unsigned across, unsigned down, unsigned threads, const void *arguments,
                               uint32_t seed, char *error, size_t length) {
    error[0] = 0;
    body = nullptr;
    for (const Entry &entry : entries)
        if (std::strcmp(entry.name, name) == 0) body = entry.run;
    if (!body || !across || !down || !threads || threads > 1024 || down > 65535) {
        std::snprintf(error, length, "%s cannot be launched with %ux%u blocks of %u threads", name, across, down, threads);
        return 1;
    }
    body_arguments = arguments;
    gridDim = Index{across, down, 1};
    blockDim = Index{threads, 1, 1};
    prepare(threads);
    std::mt19937 random(seed);
    std::vector<uint64_t> blocks((size_t)across * down);
    std::iota(blocks.begin(), blocks.end(), 0);
    for (size_t at = blocks.size() - 1; at > 0; at--) std::swap(blocks[at], blocks[random() % (at + 1)]);
    for (uint64_t block : blocks) {
        blockIdx = Index{(unsigned)(block % across), (unsigned)(block / across), 0};
        std::memset(__start_block_shared, (int)(random() & 255u), __stop_block_shared - __start_block_shared);
        for (unsigned thread = 0; thread < threads; thread++) fibers[thread]->ended = false;
        while (advance(random, threads, error, length)) {
        }
        if (error[0]) {
            // They wait inside the kernel.
            fibers.clear();
            return 1;
        }
    }
    return 0;
}
