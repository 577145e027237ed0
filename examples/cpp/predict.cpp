// Predicts for one image with an exported detector: score, p-value, decision, heatmap.
//
//     predict MODEL IMAGE.png HEATMAP.png [MAP.f32]
//
// MODEL is what `efficientad export` wrote. All arithmetic, from the resizing of the
// pixels to the map at the image's own size, is in the graph; here it is only run. The
// last file gets the combined map: float32, row by row, in this machine's byte order.
//
// Exit code 0 for normal, 1 for anomalous, 2 for an error (one line on stderr).
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>
#include <openvino/openvino.hpp>

#include "heatmap.h"
#include "png_image.h"
#include "whole_file.h"

namespace {

constexpr int normal = 0, anomalous = 1, failed = 2;

// Of exports, as in `export_metadata.py`: 4 needs more than graph and threshold.
constexpr int format_version = 3;
constexpr int later_version = 4;

struct Decision {
    double threshold;
    std::vector<double> normal_scores;  // of held-out normal images, ascending

    // Share of normal images with at least this score, as in `Calibration.p_value`.
    double p_value(double score) const {
        const auto below = std::lower_bound(normal_scores.begin(), normal_scores.end(), score);
        const auto n_above = static_cast<double>(normal_scores.end() - below);
        return (n_above + 1) / (static_cast<double>(normal_scores.size()) + 1);
    }
};

std::shared_ptr<ov::Model> read_model(ov::Core& core, const std::string& path) {
    try {
        return core.read_model(path);
    } catch (const ov::Exception&) {  // its message is several lines for developers
        throw std::runtime_error(path + " is missing or no model OpenVINO can read; make "
                                        "one with `efficientad export`");
    }
}

// The metadata of the export: in ONNX an entry that OpenVINO puts under "framework", in
// OpenVINO's own format an entry at the top.
nlohmann::json read_metadata(const ov::Model& model, const std::string& path) {
    constexpr bool throws = false;
    for (const auto& place : {std::vector<std::string>{"framework", "efficientad"},
                              std::vector<std::string>{"efficientad"}}) {
        if (!model.has_rt_info(place)) {
            continue;
        }
        auto content =
            nlohmann::json::parse(model.get_rt_info<std::string>(place), nullptr, throws);
        if (content.is_object() && content.contains("format")) {
            return content;
        }
    }
    throw std::runtime_error(path + " is not an export of efficientad; make one with "
                                    "`efficientad export`");
}

// Other entries may be missing.
Decision read_decision(const ov::Model& model, const std::string& path) {
    const nlohmann::json content = read_metadata(model, path);
    const nlohmann::json& format = content["format"];
    if (format == later_version) {
        throw std::runtime_error(path + " has a region, a least area, an unsure band, tiles, "
                                        "alignment or levels, which this program does not "
                                        "know; use predict_native");
    }
    if (format != format_version) {
        throw std::runtime_error(path + " has export format " + format.dump() +
                                 ", this program reads " + std::to_string(format_version) +
                                 "; export it again");
    }
    try {
        return {content.at("threshold").get<double>(),
                content.at("calibration").at("normal_scores").get<std::vector<double>>()};
    } catch (const nlohmann::json::exception& error) {
        throw std::runtime_error(path + " does not hold a complete calibration (" +
                                 error.what() + "); export it again");
    }
}

struct Prediction {
    ov::InferRequest request;  // owns the memory of the map
    double score;
    const float* map;  // combined, at the image's own size
    std::size_t n_values;
};

Prediction run(ov::Core& core, const std::shared_ptr<ov::Model>& model, Image& image,
               const std::string& path) {
    try {
        // By default a processor with bfloat16 uses it for everything.
        auto request =
            core.compile_model(model, "CPU", ov::hint::inference_precision(ov::element::f32))
                .create_infer_request();
        request.set_tensor(
            "images", ov::Tensor(ov::element::u8, {1, image.height, image.width, 3},
                                 image.pixels.data()));
        request.infer();
        const ov::Tensor map = request.get_tensor("combined_map");
        return {request, request.get_tensor("image_score").data<const float>()[0],
                map.data<const float>(), map.get_size()};
    } catch (const ov::Exception&) {  // several lines, as above
        throw std::runtime_error(path + " cannot be run by OpenVINO; export it again");
    }
}

// NaN is not above the threshold: without this check it would count as normal.
void require_numbers(const Prediction& prediction, const std::string& path) {
    const auto is_number = [](double value) { return std::isfinite(value); };
    if (!is_number(prediction.score) ||
        !std::all_of(prediction.map, prediction.map + prediction.n_values, is_number)) {
        throw std::runtime_error(path + " gives a score or a map that is not a number; "
                                        "copy or export it again");
    }
}

int predict(const std::vector<std::string>& arguments) {
    const std::string &model_path = arguments[0], &image_path = arguments[1];
    Image image = read_png(image_path);
    ov::Core core;
    const auto model = read_model(core, model_path);
    const Decision decision = read_decision(*model, model_path);
    const Prediction prediction = run(core, model, image, model_path);
    require_numbers(prediction, model_path);
    const bool is_anomalous = prediction.score > decision.threshold;
    write_png(arguments[2],
              heatmap(prediction.map, image.height, image.width, decision.threshold));
    if (arguments.size() > 3) {
        write_whole(arguments[3], prediction.map, prediction.n_values * sizeof(float));
    }
    std::printf("score %.9g\np_value %.9g\nthreshold %.9g\n%s\n", prediction.score,
                decision.p_value(prediction.score), decision.threshold,
                is_anomalous ? "anomalous" : "normal");
    return is_anomalous ? anomalous : normal;
}

}  // namespace

int main(int n_arguments, char** arguments) {
    if (n_arguments < 4 || n_arguments > 5) {
        std::cerr << "usage: predict MODEL IMAGE.png HEATMAP.png [MAP.f32]\n";
        return failed;
    }
    try {
        return predict({arguments + 1, arguments + n_arguments});
    } catch (const std::exception& error) {
        std::cerr << "predict: " << error.what() << "\n";
        return failed;
    }
}
