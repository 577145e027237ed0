// Predicts for one image with the C interface: score, p-value, decision, regions, heatmap.
//
//     predict_native MODEL.native IMAGE.png HEATMAP.png [MAP.f32]
//
// MODEL.native is what `efficientad export part.ead --output part.native` wrote. The last
// file gets the combined map: float32, row by row, in this machine's byte order.
//
// Exit code 0 for normal or unsure, 1 for anomalous, 2 for an error (one line on stderr).
#include <efficientad.h>

#include <cstdio>
#include <exception>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "heatmap.h"
#include "png_image.h"
#include "whole_file.h"

namespace {

constexpr int fine = 0, anomalous = 1, failed = 2;
constexpr int all_cores = 0;

using Detector = std::unique_ptr<ead_detector, decltype(&ead_close)>;
using Prediction = std::unique_ptr<ead_prediction, decltype(&ead_free)>;

void require(ead_code code) {
    if (code != EAD_OK) {
        throw std::runtime_error(ead_message());
    }
}

Detector opened(const std::string& path) {
    ead_detector* detector = nullptr;
    require(ead_open(path.c_str(), all_cores, &detector));
    return {detector, ead_close};
}

Prediction predicted(const Detector& detector, const Image& image) {
    const auto height = static_cast<std::int64_t>(image.height);
    const auto width = static_cast<std::int64_t>(image.width);
    ead_prediction* prediction = nullptr;
    require(ead_predict(detector.get(), image.pixels.data(), height, width, 3 * width,
                        EAD_RGB, &prediction));
    return {prediction, ead_free};
}

int predict(const std::vector<std::string>& arguments) {
    const Detector detector = opened(arguments[0]);
    const Image image = read_png(arguments[1]);
    const Prediction found = predicted(detector, image);
    std::vector<float> map(image.height * image.width);
    require(ead_map(found.get(), EAD_COMBINED, map.data()));
    write_png(arguments[2],
              heatmap(map.data(), image.height, image.width, found->threshold));
    if (arguments.size() > 3) {
        write_whole(arguments[3], map.data(), map.size() * sizeof(float));
    }
    const char* names[] = {"normal", "unsure", "anomalous"};
    std::printf("score %.9g\np_value %.9g\nthreshold %.9g\n%s\n", found->score,
                found->p_value, found->threshold, names[found->decision]);
    for (std::size_t i = 0; i < found->n_regions; ++i) {
        const ead_region& r = found->regions[i];
        std::printf("region x %lld y %lld width %lld height %lld area %.2f peak %.9g\n",
                    static_cast<long long>(r.x), static_cast<long long>(r.y),
                    static_cast<long long>(r.width), static_cast<long long>(r.height),
                    r.area, r.peak);
    }
    return found->decision == EAD_ANOMALOUS ? anomalous : fine;
}

}  // namespace

int main(int n_arguments, char** arguments) {
    if (n_arguments < 4 || n_arguments > 5) {
        std::cerr << "usage: predict_native MODEL.native IMAGE.png HEATMAP.png [MAP.f32]\n";
        return failed;
    }
    try {
        return predict({arguments + 1, arguments + n_arguments});
    } catch (const std::exception& error) {
        std::cerr << "predict_native: " << error.what() << "\n";
        return failed;
    }
}
