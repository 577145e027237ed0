// The C interface: a model file, its networks by the native layers, and the decision.
//
// `native_file.h` reads the file, `resizing.h` resizes images, `decision.h` does what
// follows the maps.

#include "efficientad.h"

#include <sched.h>

#include <mutex>
#include <new>

#include "decision.h"
#include "dispatch.h"
#include "grids.h"
#include "native_file.h"
#include "packing.h"
#include "resizing.h"

namespace {

int64_t usable_cores() {
  cpu_set_t set;
  int64_t n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  long long quota, period;  // of a container
  const std::unique_ptr<FILE, int (*)(FILE*)> file(
      std::fopen("/sys/fs/cgroup/cpu.max", "r"), std::fclose);
  if (file && std::fscanf(file.get(), "%lld %lld", &quota, &period) == 2 && period > 0)
    n = std::min<int64_t>(n, quota / period);
  return std::max<int64_t>(1, n);
}

// The grids of one prediction, and the layers on them.
class Workspace {
 public:
  Workspace(const Model& model, const std::vector<Floats>& weights) {
    for (const int64_t n : model.buffers) {
      buffers_.emplace_back(n);
      std::fill_n(buffers_.back().data(), n, 0.0f);
    }
    for (int64_t i = 0; i < model.buffers[0]; ++i) at(0)[i] = model.margin[i % 3];
    for (const Step& step : model.steps) {
      layers_.emplace_back();
      for (const Use& use : step.uses) {
        const float* residual =
            use.has_residual ? at(use.residual.buffer) + use.residual.offset : nullptr;
        layers_.back().push_back(layer_of(model.layers[use.layer],
                                          weights[use.layer].data(), residual,
                                          grid(use.input), grid(use.output)));
      }
    }
  }

  float* at(int64_t buffer) const { return buffers_[buffer].data(); }

  Grid grid(const Place& p) const {
    return {at(p.buffer) + p.offset, 1, p.height, p.width, p.pixel, p.row, 0};
  }

  const std::vector<Layer>& layers(size_t step) const { return layers_[step]; }

 private:
  std::vector<Floats> buffers_;
  std::vector<std::vector<Layer>> layers_;  // of each step
};

Pixels pixels_of(const uint8_t* data, int64_t height, int64_t width, int64_t stride,
                 ead_channels channels) {
  switch (channels) {
    case EAD_RGB:
      return {data, height, width, stride, 3, 0, 1, 2};
    case EAD_BGR:
      return {data, height, width, stride, 3, 2, 1, 0};
    case EAD_RGBA:
      return {data, height, width, stride, 4, 0, 1, 2};
    case EAD_BGRA:
      return {data, height, width, stride, 4, 2, 1, 0};
    case EAD_GRAY:
      return {data, height, width, stride, 1, 0, 0, 0};
  }
  throw Error{EAD_BAD_ARGUMENT, "channels must be a value of ead_channels, got " +
                                    std::to_string(static_cast<int>(channels)) +
                                    "; give one of them"};
}

void require_size(const Pixels& p) {
  const std::string size = std::to_string(p.width) + " x " + std::to_string(p.height);
  if (std::min(p.height, p.width) < 8)
    throw Error{EAD_BAD_IMAGE,
                "an image needs at least 8 x 8 pixels, got " + size + "; leave it out"};
  if (p.width > 200'000'000 / p.height)
    throw Error{EAD_BAD_IMAGE, "an image may have 200 million pixels, got " + size +
                                   "; cut it into tiles or reduce it"};
  if (std::abs(p.row) < p.width * p.pixel)
    throw Error{EAD_BAD_ARGUMENT,
                "a row of " + std::to_string(p.width) + " pixels has " +
                    std::to_string(p.width * p.pixel) + " bytes, got a stride of " +
                    std::to_string(p.row) + "; give the bytes from one row to the next"};
}

thread_local std::string last_message;

// Calls a function and turns what it throws into a code and a sentence.
template <class F>
ead_code guarded(const F& function) {
  try {
    function();
    return EAD_OK;
  } catch (const Error& error) {
    last_message = error.text;
    return error.code;
  } catch (const std::bad_alloc&) {
    last_message = "the memory does not suffice for model and image; free some";
    return EAD_NO_MEMORY;
  }
}

template <class T>
void require_pointer(T* pointer, const char* name) {
  if (!pointer)
    throw Error{EAD_BAD_ARGUMENT, std::string(name) + " must be an address, got NULL; give one"};
}

}  // namespace

struct ead_detector {
  const Kernels& kernels;
  Model model;  // its layers without their weights
  const int64_t threads;
  std::vector<Floats> weights;  // of each layer, packed
  mutable std::mutex mutex;
  mutable std::vector<std::unique_ptr<Workspace>> idle;

  ead_detector(Model given, int64_t n_threads)
      : kernels(best_kernels()), model(std::move(given)), threads(n_threads) {
    for (Described& l : model.layers) {
      if (l.out % kernels.panel() || (l.tile && !l.flat && l.in % kernels.lanes()))
        throw Error{EAD_BAD_FILE, "this processor needs channels in multiples of " +
                                      std::to_string(kernels.panel()) +
                                      ", this detector has others; use another processor"};
      weights.push_back(packed(kernels, l, threads));
      l.weights = std::vector<double>();
    }
    for (const Step& s : model.steps)
      if (s.uses.empty() && s.input.channels % kernels.lanes())
        throw Error{EAD_BAD_FILE, "a step resizes channels that are no multiple of " +
                                      std::to_string(kernels.lanes()) + "; export it again"};
  }

  std::unique_ptr<Workspace> workspace() const {
    const std::lock_guard<std::mutex> lock(mutex);
    if (idle.empty()) return std::make_unique<Workspace>(model, weights);
    auto found = std::move(idle.back());
    idle.pop_back();
    return found;
  }

  void give_back(std::unique_ptr<Workspace> workspace) const {
    const std::lock_guard<std::mutex> lock(mutex);
    idle.push_back(std::move(workspace));
  }

  void run(const Workspace& w, const uint8_t* pixels) const {
    const Grid image = w.grid(model.image);
    kernels.to_float(pixels, &image, threads);
    for (size_t i = 0; i < model.steps.size(); ++i) {
      const Step& step = model.steps[i];
      const std::vector<Layer>& layers = w.layers(i);
      if (layers.empty()) {
        const Grid from = w.grid(step.input), to = w.grid(step.output);
        kernels.resize(&from, &to, step.input.channels, threads);
      } else {
        kernels.of(model.layers[step.uses[0].layer])(layers.data(), layers.size(), threads,
                                                     step.block);
      }
    }
  }
};

namespace {

struct Prediction : ead_prediction {
  std::array<Map, 2> maps;
  Map combined;
  std::vector<ead_region> found;
};

Map map_of(const Workspace& w, const Place& place) {
  const Grid grid = w.grid(place);
  Map map;
  for (int64_t y = 0; y < kCells; ++y)
    for (int64_t x = 0; x < kCells; ++x) map.push_back(*grid.at(0, y, x));
  return map;
}

void decide(const Model& m, float points, Prediction& p) {
  for (size_t i = 0; i < p.maps.size(); ++i) {
    normalize(p.maps[i], m.scales[i], m.cells);
    for (const float value : p.maps[i])
      if (!std::isfinite(value))
        throw Error{EAD_BAD_FILE,
                    "a decision needs finite maps for every image, the model gives others; "
                    "export it again"};
  }
  p.combined = p.maps[0];
  for (size_t i = 0; i < p.combined.size(); ++i)
    p.combined[i] = (p.combined[i] + p.maps[1][i]) / 2.0f;
  p.score = (m.score_has_map ? score_of(m, p.combined) : 0.0f) + points;
  if (!std::isfinite(p.score))
    throw Error{EAD_BAD_FILE,
                "a decision needs a finite score, the model gives another; export it again"};
  p.p_value = p_value(m, p.score);
  p.threshold = m.threshold;
  p.decision = p.score > m.threshold ? EAD_ANOMALOUS
               : p.score > m.unsure  ? EAD_UNSURE  // never above NaN
                                     : EAD_NORMAL;
  if (p.decision != EAD_NORMAL)
    p.found = regions_of(m, p.combined, p.decision == EAD_UNSURE ? m.unsure : m.threshold,
                         p.height, p.width);
  p.regions = p.found.data();
  p.n_regions = p.found.size();
}

}  // namespace

ead_code ead_open(const char* path, int n_threads, ead_detector** detector) {
  return guarded([&] {
    require_pointer(path, "path");
    require_pointer(detector, "detector");
    if (n_threads < 0 || n_threads > 1024)
      throw Error{EAD_BAD_ARGUMENT, "n_threads must be from 0 to 1024, got " +
                                        std::to_string(n_threads) + "; give 0 for all cores"};
    static const bool can_compute = is_right(best_kernels());
    if (!can_compute)
      throw Error{EAD_BAD_LIBRARY, std::string("the layers for ") + best_kernels().name +
                                       " give wrong numbers here; install the library again"};
    auto model = read_model(path);
    *detector = new ead_detector(std::move(model), n_threads ? n_threads : usable_cores());
  });
}

void ead_close(ead_detector* detector) { delete detector; }

ead_code ead_predict(const ead_detector* detector, const uint8_t* pixels, int64_t height,
                     int64_t width, int64_t stride, ead_channels channels,
                     ead_prediction** prediction) {
  return guarded([&] {
    require_pointer(detector, "detector");
    require_pointer(pixels, "pixels");
    require_pointer(prediction, "prediction");
    const Pixels image = pixels_of(pixels, height, width, stride, channels);
    require_size(image);
    const Model& m = detector->model;
    require_aspect(m, height, width);
    std::vector<uint8_t> small(kInput * kInput * 3);
    resize_pixels(image, kInput, small.data());
    auto workspace = detector->workspace();
    detector->run(*workspace, small.data());
    auto found = std::make_unique<Prediction>();
    found->height = height, found->width = width;
    for (size_t i = 0; i < m.maps.size(); ++i) found->maps[i] = map_of(*workspace, m.maps[i]);
    const float points = points_of(m, workspace->grid(m.hidden).data);
    detector->give_back(std::move(workspace));
    decide(m, points, *found);
    *prediction = found.release();
  });
}

void ead_free(ead_prediction* prediction) { delete static_cast<Prediction*>(prediction); }

ead_code ead_map(const ead_prediction* prediction, ead_map_name name, float* values) {
  return guarded([&] {
    require_pointer(prediction, "prediction");
    require_pointer(values, "values");
    if (name < EAD_COMBINED || name > EAD_GLOBAL)
      throw Error{EAD_BAD_ARGUMENT, "name must be a value of ead_map_name, got " +
                                        std::to_string(static_cast<int>(name)) +
                                        "; give one of them"};
    const auto& p = *static_cast<const Prediction*>(prediction);
    const Map& map = name == EAD_COMBINED ? p.combined : p.maps[name - EAD_LOCAL];
    place_map(map, p.height, p.width, values);
  });
}

const char* ead_message() { return last_message.c_str(); }

const char* ead_instruction_set() { return best_kernels().name; }
