#include "module.h"

#include <cstdlib>
#include <cstring>
#include <new>
#include <sstream>
#include <string>
#include <unordered_map>
#include <vector>

#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/cuda.h>
#include <torch/script.h>

struct detectd_module {
    torch::jit::Module module;
};

namespace {

using torch::jit::Block;
using torch::jit::Graph;
using torch::jit::Node;
using torch::jit::Value;

// Deeper nesting than any model's.
constexpr int DEEPEST = 16;
constexpr size_t MOST_OUTPUTS = 1024;

int fail(char **error, int status, const char *message) {
    *error = strdup(message);
    return status;
}

template <typename Work> int guarded(char **error, Work work) {
    try {
        work();
        return DETECTD_DONE;
    } catch (const c10::OutOfMemoryError &e) {
        return fail(error, DETECTD_OUT_OF_MEMORY, e.what_without_backtrace());
    } catch (const std::bad_alloc &) {
        return fail(error, DETECTD_OUT_OF_MEMORY, "the host has no memory for it");
    } catch (const c10::Error &e) {
        return fail(error, DETECTD_FAILED, e.what_without_backtrace());
    } catch (const std::exception &e) {
        return fail(error, DETECTD_FAILED, e.what());
    } catch (...) {
        return fail(error, DETECTD_FAILED, "an exception of an unknown kind");
    }
}

// The nodes of a graph, those of inner blocks included.
void nodes_of(Block *block, std::vector<Node *> &nodes) {
    for (Node *node : block->nodes()) {
        nodes.push_back(node);
        for (Block *inner : node->blocks()) nodes_of(inner, nodes);
    }
}

std::vector<Node *> nodes_of(Graph &graph) {
    std::vector<Node *> nodes;
    nodes_of(graph.block(), nodes);
    return nodes;
}

// Convolutions and products, and how many of their first inputs are tensors that must have one type.
size_t operands(const Node *node) {
    static const std::unordered_map<std::string, size_t> heavy = {
        {"aten::_convolution", 3}, {"aten::convolution", 3}, {"aten::conv1d", 3},   {"aten::conv2d", 3},
        {"aten::conv3d", 3},       {"aten::linear", 3},      {"aten::addmm", 3},    {"aten::baddbmm", 3},
        {"aten::matmul", 2},       {"aten::mm", 2},          {"aten::bmm", 2},      {"aten::conv_transpose1d", 3},
        {"aten::conv_transpose2d", 3}, {"aten::scaled_dot_product_attention", 3},
    };
    auto found = heavy.find(node->kind().toQualString());
    return found == heavy.end() ? 0 : std::min(found->second, node->inputs().size());
}

bool is_tensor(const Value *value) { return value->type()->isSubtypeOf(*c10::TensorType::get()); }

// Forward with everything that it calls, to look at.
std::shared_ptr<Graph> whole(const torch::jit::Module &module) {
    auto graph = module.get_method("forward").graph()->copy();
    torch::jit::Inline(*graph);
    return graph;
}

int bit(const at::Tensor &tensor) {
    if (tensor.is_quantized()) return DETECTD_QUANTISED;
    if (tensor.dim() < 2) return 0; // Biases and statistics may be kept in more.
    switch (tensor.scalar_type()) {
    case at::kFloat: return DETECTD_FLOAT;
    case at::kHalf: return DETECTD_HALF;
    case at::kBFloat16: return DETECTD_BFLOAT16;
    default: return 0;
    }
}

// The same tensor in another type: constants are converted once, everything else when it is computed; what has the
// type already is passed on as it is.
Value *in_type(Graph &graph, Node *before, Value *value, at::ScalarType type) {
    torch::jit::WithInsertPoint point(before);
    auto constant = torch::jit::toIValue(value);
    if (constant && constant->isTensor()) {
        auto tensor = constant->toTensor();
        return tensor.is_floating_point() ? graph.insertConstant(tensor.to(type)) : value;
    }
    return graph.insert(torch::jit::aten::to, {value, type});
}

void flatten(const c10::IValue &value, const char *name, int depth, size_t &told, detectd_tell tell, void *context) {
    TORCH_CHECK(depth < DEEPEST, "the outputs are nested more than ", DEEPEST, " deep");
    if (value.isTensor()) {
        TORCH_CHECK(++told <= MOST_OUTPUTS, "there are more than ", MOST_OUTPUTS, " outputs");
        tell(context, name, new at::Tensor(value.toTensor()));
    } else if (value.isTuple()) {
        for (const auto &element : value.toTupleRef().elements()) flatten(element, nullptr, depth + 1, told, tell, context);
    } else if (value.isList()) {
        for (const c10::IValue &element : value.toListRef()) flatten(element, nullptr, depth + 1, told, tell, context);
    } else if (value.isGenericDict()) {
        for (const auto &entry : value.toGenericDict()) {
            std::string key = entry.key().isString() ? entry.key().toStringRef() : std::string();
            flatten(entry.value(), key.empty() ? nullptr : key.c_str(), depth + 1, told, tell, context);
        }
    } else if (!value.isNone()) {
        TORCH_CHECK(false, "the module gives a value of the type ", value.tagKind(),
                    "; tensors, and tuples, lists and dictionaries of them, can be served");
    }
}

} // namespace

int detectd_cuda_devices(int *count, char **error) {
    return guarded(error, [&] {
        // Convolutions of 32-bit floats would keep 10 bits of each operand; who wants that asks for 16 bits.
        at::globalContext().setAllowTF32CuDNN(false);
        *count = static_cast<int>(torch::cuda::device_count());
    });
}

int detectd_stream_new(int cuda, int64_t *number, void **handle, char **error) {
    return guarded(error, [&] {
        // The interface that libtorch_cuda registers with libc10, which is all that is linked against.
        c10::impl::VirtualGuardImpl guard(c10::kCUDA);
        c10::Device device(c10::kCUDA, static_cast<int8_t>(cuda));
        c10::Stream stream = guard.getStreamFromGlobalPool(device, false);
        *number = stream.id();
        *handle = guard.getStreamNativeHandle(stream);
    });
}

int detectd_stream_use(int cuda, int64_t number, char **error) {
    return guarded(error, [&] {
        c10::impl::VirtualGuardImpl guard(c10::kCUDA);
        c10::Device device(c10::kCUDA, static_cast<int8_t>(cuda));
        guard.setDevice(device);
        guard.exchangeStream(c10::Stream(c10::Stream::UNSAFE, device, number));
    });
}

int detectd_tensor_address(const void *tensor, uint64_t *address, char **error) {
    return guarded(error, [&] {
        *address = reinterpret_cast<uint64_t>(static_cast<const at::Tensor *>(tensor)->data_ptr());
    });
}

int detectd_module_load(const char *bytes, size_t length, int cuda, detectd_module **module, detectd_tell extra,
                        void *context, char **error) {
    return guarded(error, [&] {
        // The profiling executor compiles anew for each new shape, in the middle of serving; the simple one never does.
        torch::jit::getProfilingMode() = false;
        c10::Device device = cuda < 0 ? c10::Device(c10::kCPU) : c10::Device(c10::kCUDA, static_cast<int8_t>(cuda));
        std::istringstream stream(std::string(bytes, length));
        torch::jit::ExtraFilesMap files{{"config.txt", ""}};
        auto loaded = torch::jit::load(stream, device, files, /*load_debug_files=*/false);
        loaded.eval();
        TORCH_CHECK(loaded.find_method("forward"), "the module has no method `forward`");
        *module = new detectd_module{std::move(loaded)};
        if (!files["config.txt"].empty()) extra(context, files["config.txt"].c_str(), nullptr);
    });
}

void detectd_module_free(detectd_module *module) {
    char *error = nullptr;
    guarded(&error, [&] { delete module; });
    free(error);
}

int detectd_module_inputs(const detectd_module *module, detectd_tell input, void *context, char **error) {
    return guarded(error, [&] {
        const auto &arguments = module->module.get_method("forward").function().getSchema().arguments();
        for (size_t index = 1; index < arguments.size(); index++) {
            const auto &argument = arguments[index];
            if (argument.default_value()) continue;
            TORCH_CHECK(argument.type()->isSubtypeOf(*c10::TensorType::get()), "input ", argument.name(), " is ",
                        argument.type()->repr_str(), "; only tensors can be served");
            input(context, argument.name().c_str(), nullptr);
        }
    });
}

int detectd_module_weights(const detectd_module *module, int *weights, char **error) {
    return guarded(error, [&] {
        *weights = 0;
        for (const auto &parameter : module->module.parameters()) *weights |= bit(parameter);
        auto graph = whole(module->module);
        for (Node *node : nodes_of(*graph)) {
            if (std::string(node->kind().ns().toUnqualString()) == "quantized") *weights |= DETECTD_QUANTISED;
            // The second operand; a frozen or traced module keeps its weights as constants.
            if (operands(node) < 2) continue;
            auto constant = torch::jit::toIValue(node->inputs()[1]);
            if (constant && constant->isTensor()) *weights |= bit(constant->toTensor());
        }
    });
}

int detectd_module_convert(detectd_module *module, int bfloat16, char **error) {
    return guarded(error, [&] {
        at::ScalarType type = bfloat16 ? at::kBFloat16 : at::kHalf;
        // Frozen, the weights are constants of one graph, and the normalisations are folded into the convolutions.
        auto frozen = torch::jit::freeze(module->module);
        auto graph = frozen.get_method("forward").graph();
        torch::jit::Inline(*graph);
        for (Node *node : nodes_of(*graph)) {
            size_t count = operands(node);
            for (size_t index = 0; index < count; index++) {
                Value *value = node->inputs()[index];
                if (is_tensor(value)) node->replaceInput(index, in_type(*graph, node, value, type));
            }
        }
        torch::jit::EliminateDeadCode(graph); // What is not used any more is not kept.
        module->module = std::move(frozen);
    });
}

int detectd_module_forward(const detectd_module *module, void *const *inputs, size_t count, detectd_tell output,
                           void *context, char **error) {
    return guarded(error, [&] {
        c10::InferenceMode inference;
        std::vector<c10::IValue> values;
        for (size_t index = 0; index < count; index++) values.emplace_back(*static_cast<at::Tensor *>(inputs[index]));
        // `forward` is not const, but changes nothing of the handle.
        auto handle = module->module;
        c10::IValue outcome = handle.forward(std::move(values));
        size_t told = 0;
        flatten(outcome, nullptr, 0, told, output, context);
    });
}
