// What the Rust side needs of TorchScript beyond the binding. No exception leaves these functions: a failure is a
// message, allocated with malloc, which the caller frees.
#pragma once
#include <stddef.h>
#include <stdint.h>

extern "C" {

// A loaded module. One may be run by several threads at once.
struct detectd_module;

enum detectd_status { DETECTD_DONE = 0, DETECTD_FAILED = 1, DETECTD_OUT_OF_MEMORY = 2 };

// What the heavy operators' weights are kept in, as bits.
enum detectd_weights { DETECTD_FLOAT = 1, DETECTD_HALF = 2, DETECTD_BFLOAT16 = 4, DETECTD_QUANTISED = 8 };

// A name, which is a null pointer where there is none, and a tensor (`at::Tensor *`) that the callee owns from then on;
// a null pointer where only a name is told.
typedef void (*detectd_tell)(void *context, const char *name, void *tensor);

// CUDA devices that answer.
int detectd_cuda_devices(int *count, char **error);

// A stream of a CUDA device that is not the default one: its number, by which it is used, and CUDA's own handle.
int detectd_stream_new(int cuda, int64_t *number, void **handle, char **error);

// Lets the calling thread's work on the device run in that stream.
int detectd_stream_use(int cuda, int64_t number, char **error);

// Where the values of a tensor (`at::Tensor *`) begin.
int detectd_tensor_address(const void *tensor, uint64_t *address, char **error);

// Reads an archive from memory onto the CPU (`cuda` < 0) or a CUDA device. `extra` is called with the text of
// `config.txt`, if the archive has one.
int detectd_module_load(const char *bytes, size_t length, int cuda, detectd_module **module, detectd_tell extra,
                        void *context, char **error);
void detectd_module_free(detectd_module *module);

// Tells the names of forward's arguments that have no default, in order. One that is no tensor is an error.
int detectd_module_inputs(const detectd_module *module, detectd_tell input, void *context, char **error);

// Which weights there are: bits of detectd_weights.
int detectd_module_weights(const detectd_module *module, int *weights, char **error);

// Lets convolutions and products compute in half floats (`bfloat16` = 0) or bfloat16.
int detectd_module_convert(detectd_module *module, int bfloat16, char **error);

// Computes, and tells every tensor of the outcome, depth first: tuples and lists in order, dictionaries in the order in
// which they were filled, with their keys.
int detectd_module_forward(const detectd_module *module, void *const *inputs, size_t count, detectd_tell output,
                           void *context, char **error);
}
