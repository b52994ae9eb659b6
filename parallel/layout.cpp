#include "parallel/layout.h"

#include "base/error.h"

namespace tessera {

const char* name_of(Axis axis) {
  switch (axis) {
    case Axis::Pp:
      return "pp";
    case Axis::Dp:
      return "dp";
    case Axis::Cp:
      return "cp";
    case Axis::Tp:
      return "tp";
    case Axis::Count:
      break;
  }
  return "?";
}

int Layout::ranks() const {
  int product = 1;
  for (int degree_of_axis : degrees) product *= degree_of_axis;
  return product;
}

int rank_of(const Layout& layout, const Coordinates& coordinates) {
  int rank = 0;
  for (int axis = 0; axis < axes; axis++) {  // Axis lists the outermost first
    invariant(coordinates[axis] >= 0 && coordinates[axis] < layout.degrees[axis], "a coordinate lies outside its axis");
    rank = rank * layout.degrees[axis] + coordinates[axis];
  }
  return rank;
}

Coordinates coordinates_of(const Layout& layout, int rank) {
  invariant(rank >= 0 && rank < layout.ranks(), "a rank lies outside the world");
  Coordinates coordinates{};
  for (int axis = axes - 1; axis >= 0; axis--) {
    coordinates[axis] = rank % layout.degrees[axis];
    rank /= layout.degrees[axis];
  }
  return coordinates;
}

static int rank_at(const Layout& layout, Coordinates coordinates, Axis axis, int coordinate) {
  coordinates[static_cast<int>(axis)] = coordinate;
  return rank_of(layout, coordinates);
}

std::vector<int> group_of(const Layout& layout, Axis axis, int rank) {
  const Coordinates own = coordinates_of(layout, rank);
  std::vector<int> group;
  for (int coordinate = 0; coordinate < layout.degree(axis); coordinate++) group.push_back(rank_at(layout, own, axis, coordinate));
  return group;
}

std::vector<int> tied_group_of(const Layout& layout, int rank) {
  const Coordinates own = coordinates_of(layout, rank);
  const int stage = own[static_cast<int>(Axis::Pp)], last = layout.degree(Axis::Pp) - 1;
  if (stage != 0 && stage != last) return {};
  if (last == 0) return {rank};
  return {rank_at(layout, own, Axis::Pp, 0), rank_at(layout, own, Axis::Pp, last)};
}

}  // namespace tessera
