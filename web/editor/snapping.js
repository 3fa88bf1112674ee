// Magnets: where a dragged point comes to rest, on other people's joints or on the grid.

import { isKnown } from "./geometry.js"
import { indices } from "./skeleton.js"

export const GRID = 8 // lines of the grid across the canvas's shorter side
const REACH = 8 // px on the screen

export const gridStep = ({ width, height }) => Math.min(width, height) / GRID

/** The joints that a joint of `person` can come to rest on: everybody's, without its own. */
export function magnets({ people }, person, joint) {
    const isOwn = (i, other) => i === person && other === joint
    return people.flatMap(({ points }, i) =>
        indices("body").filter((other) => isKnown(points[other]) && !isOwn(i, other))
            .map((other) => points[other].slice(0, 2)))
}

/**
 * Where [x, y] comes to rest: on the nearest of `points` in reach, else on the lines of the grid in
 * reach, each axis alone. step: px between the lines, 0 without a grid; zoom: px on the screen.
 */
export function snapped([x, y], points, step, zoom) {
    const reach = REACH / zoom
    const away = ([px, py]) => Math.hypot(px - x, py - y)
    const near = points.filter((point) => away(point) <= reach).sort((a, b) => away(a) - away(b))
    if (near.length) return near[0]
    const rest = (value) => {
        const line = step ? Math.round(value / step) * step : value
        return Math.abs(line - value) <= reach ? line : value
    }
    return [rest(x), rest(y)]
}
