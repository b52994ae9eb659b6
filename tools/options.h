#pragma once
#include <charconv>
#include <CLI/CLI.hpp>
#include <string>
#include <type_traits>

#include "base/config.h"
#include "base/error.h"

namespace tessera {

/// What a value that is not legal is answered with: name, value, what is legal, the nearest name.
ConfigError illegal_value(const std::string& name, const std::string& text, const Legal& legal);

/// An option whose value is checked as that of a configuration key. Value: a number or std::string, as wide as `legal` needs; it must outlive
/// the parsing.
template <class Value>
CLI::Option* add_checked_option(CLI::App* command, const std::string& name, Value& value, const Legal& legal, const std::string& help) {
  const auto take = [&value, name, legal](const std::string& text) {
    if constexpr (std::is_arithmetic_v<Value>) {
      std::conditional_t<std::is_integral_v<Value>, int64_t, double> number{};
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
      const bool whole = error == std::errc() && end == text.data() + text.size();
      if (!whole || !legal.allows(static_cast<double>(number))) throw illegal_value(name, text, legal);
      value = static_cast<Value>(number);
    } else {
      if (!legal.allows(text)) throw illegal_value(name, text, legal);
      value = text;
    }
  };
  return command->add_option_function<std::string>(name, take, help)->type_name("(" + legal.text() + ")");
}

/// What CLI11 found wrong with the command line, as an error of ours: an unknown name with what is known and the nearest, else its own words.
ConfigError usage_error(const CLI::App& app, const CLI::ParseError& error);

}  // namespace tessera
