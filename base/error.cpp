#include "base/error.h"

namespace tessera {

static std::string render(const ErrorText& text) {
  std::string out = text.what;
  if (!text.where.empty()) out += "\n  where: " + text.where;
  if (!text.legal.empty()) out += "\n  legal: " + text.legal;
  if (!text.hint.empty()) out += "\n  hint:  " + text.hint;
  return out;
}

Error::Error(ErrorText text, int exit_status) : std::runtime_error(render(text)), text_(std::move(text)), exit_status_(exit_status) {}

}  // namespace tessera
