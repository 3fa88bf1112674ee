// Draws the editor's canvas with Konva: the photograph, the people in OpenPose's colors as
// models/pose_drawing.py draws them, and the handles of the selected person.

import { bounds, isKnown } from "./geometry.js"
import { LIMB_ENDS, colorOf, limbOf } from "./hand_poses.js"
import { HANDLE, handles } from "./hits.js"
import {
    BONES, FOOT_BONES, LIMBS, L_EAR, L_EYE, NOSE, R_EAR, R_EYE, hue, indices,
} from "./skeleton.js"
import { GRID, gridStep } from "./snapping.js"
import { say } from "./words.js"

const HEAD = [NOSE, R_EYE, L_EYE, R_EAR, L_EAR]
const limbColor = (limb) => `hsl(${20 * limb} 100% 30%)`

/** Half a limb's width in the image: as auto_line_width of models/pose_drawing.py. */
const lineWidth = ({ width, height }) => Math.max(1.5, (4 * Math.min(width, height)) / 512)

/**
 * Draws everything anew.
 *
 * look: { state, numbers, selected, joint, target, photo, opacity, hovered, grid, view }, where
 * numbers[i] is the number of person i from the left, target the points that the box holds, view
 * { x, y, scale }.
 */
export function draw(konva, layer, look) {
    const { state, view } = look
    layer.destroyChildren()
    layer.position({ x: view.x, y: view.y })
    layer.scale({ x: view.scale, y: view.scale })
    layer.add(new konva.Rect({ width: state.width, height: state.height, fill: "#000" }))
    if (look.photo) layer.add(photograph(konva, look))
    if (look.grid) layer.add(gridLines(konva, look))
    state.people.forEach((person, i) => layer.add(figure(konva, person, i, look)))
    const person = state.people[look.selected]
    if (person) layer.add(selection(konva, person, look))
    state.people.forEach((other, i) => layer.add(badge(konva, other, i, look)))
    layer.add(new konva.Rect({
        width: state.width, height: state.height, stroke: "#666", strokeWidth: 1,
        strokeScaleEnabled: false,
    }))
    layer.batchDraw()
}

/** The limbs alone on a plain 2D context, as large as they fit into this box at its corner. */
export function sketch(context, { width, height, people }, [boxWidth, boxHeight]) {
    const scale = Math.min(boxWidth / width, boxHeight / height)
    context.save()
    context.scale(scale, scale)
    context.fillStyle = "#000"
    context.fillRect(0, 0, width, height)
    Object.assign(context, { lineCap: "round", lineWidth: 1.6 * lineWidth({ width, height }) })
    for (const { points } of people) LIMBS.forEach(([a, b], i) => {
        if (!isKnown(points[a]) || !isKnown(points[b])) return
        context.strokeStyle = limbColor(i)
        context.beginPath()
        context.moveTo(points[a][0], points[a][1])
        context.lineTo(points[b][0], points[b][1])
        context.stroke()
    })
    context.restore()
}

/** The photograph as large as it covers the canvas, centered, as the host scales a hint. */
function photograph(konva, { photo, opacity, state }) {
    const scale = Math.max(state.width / photo.width, state.height / photo.height)
    const [width, height] = [state.width / scale, state.height / scale]
    return new konva.Image({
        image: photo, opacity, width: state.width, height: state.height,
        crop: { x: (photo.width - width) / 2, y: (photo.height - height) / 2, width, height },
    })
}

function gridLines(konva, { state, view }) {
    const { width, height } = state
    const step = gridStep(state)
    const count = Math.floor((GRID * Math.max(width, height)) / Math.min(width, height)) - 1
    const look = { stroke: "#fff", strokeWidth: 1 / view.scale, opacity: 0.18 }
    const lines = Array.from({ length: count }, (_, i) => (i + 1) * step).flatMap((at) => [
        at < width ? [at, 0, at, height] : null, at < height ? [0, at, width, at] : null,
    ])
    const group = new konva.Group()
    lines.filter(Boolean).forEach((points) => group.add(new konva.Line({ points, ...look })))
    return group
}

function figure(konva, person, number, { state, view, selected }) {
    const half = lineWidth(state)
    const thin = Math.max(half / 3, 0.8 / view.scale)
    const group = new konva.Group({ opacity: selected === number || selected === null ? 1 : 0.75 })
    const { points } = person
    const bone = ([a, b], stroke, strokeWidth) => {
        if (!isKnown(points[a]) || !isKnown(points[b])) return
        const ends = [...points[a].slice(0, 2), ...points[b].slice(0, 2)]
        group.add(new konva.Line({ points: ends, stroke, strokeWidth, lineCap: "round" }))
    }
    const dot = (i, fill, radius) => {
        const [x, y] = points[i]
        if (isKnown(points[i])) group.add(new konva.Circle({ x, y, fill, radius }))
    }
    LIMBS.forEach((limb, i) => bone(limb, limbColor(i), 1.6 * half))
    FOOT_BONES.forEach((toe) => bone(toe, "#888", thin * 1.5))
    BONES.forEach((finger, i) => bone(finger, hue(i % 20, 20), 1.5 * thin))
    indices("face").forEach((i) => dot(i, "#fff", 0.8 * thin))
    indices("feet").forEach((i) => dot(i, "#bbb", thin))
    for (const part of ["leftHand", "rightHand"]) {
        const color = selected === number ? colorOf(part) : "#5566ff"
        indices(part).slice(1).forEach((i) => dot(i, color, thin))
    }
    indices("body").forEach((i) => dot(i, hue(i, 18), half))
    return group
}

/** What can be taken hold of: box and handles, the chosen joint, places of hidden joints. */
function selection(konva, person, { target, joint, view, colors, numbers, selected }) {
    const group = new konva.Group()
    const px = 1 / view.scale
    const color = colors[numbers[selected] - 1]
    indices("body").filter((i) => !isKnown(person.points[i])).forEach((i) => {
        const [x, y] = person.points[i]
        if (x || y) group.add(new konva.Circle({
            x, y, radius: 5 * px, stroke: "#999", strokeWidth: px, dash: [2 * px, 2 * px],
        }))
    })
    const grips = handles(person, target, view.scale)
    if (!grips) return group
    const { box, corners, stalk } = grips
    group.add(new konva.Rect({
        x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top,
        stroke: color, strokeWidth: px, dash: [4 * px, 4 * px],
    }))
    group.add(new konva.Line({
        points: [stalk[0], box.top, ...stalk], stroke: color, strokeWidth: px,
    }))
    const grip = { stroke: color, strokeWidth: 1.5 * px, fill: "#111" }
    for (const [x, y] of corners) group.add(new konva.Rect({
        x: x - (HANDLE / 2) * px, y: y - (HANDLE / 2) * px, width: HANDLE * px,
        height: HANDLE * px, cornerRadius: 2 * px, ...grip,
    }))
    group.add(new konva.Circle({ x: stalk[0], y: stalk[1], radius: (HANDLE / 2) * px, ...grip }))
    if (joint !== null) {
        const [x, y] = person.points[joint]
        group.add(new konva.Circle({
            x, y, radius: 8 * px, stroke: "#fff", strokeWidth: 2 * px,
        }))
        if (limbOf(joint)) group.add(sign(konva, limbOf(joint), person, px))
    }
    return group
}

/** Which hand or foot it is, in words and in its side's color, beside it. */
function sign(konva, limb, { points }, px) {
    const [x, y] = points[LIMB_ENDS[limb].joint]
    return new konva.Text({
        x: x + 14 * px, y: y - 22 * px, text: say(LIMB_ENDS[limb].name), fontSize: 13 * px,
        fontStyle: "bold", fontFamily: "sans-serif", fill: colorOf(limb), stroke: "#000",
        strokeWidth: 3 * px, fillAfterStrokeEnabled: true,
    })
}

/** The person's number in their color, beside the head. */
function badge(konva, person, i, { state, view, numbers, colors, hovered }) {
    const group = new konva.Group()
    const box = bounds(person, HEAD) ?? bounds(person)
    if (!box) return group
    const px = 1 / view.scale
    const inside = (at, size) => Math.min(size - 10 * px, Math.max(10 * px, at))
    const x = inside(box.left - 16 * px, state.width)
    const y = inside((box.top + box.bottom) / 2, state.height)
    const ring = hovered === i ? { radius: 10 * px, stroke: "#fff", strokeWidth: 2 * px } : {}
    group.add(new konva.Circle({ x, y, radius: 8 * px, fill: colors[numbers[i] - 1], ...ring }))
    group.add(new konva.Text({
        x: x - 8 * px, y: y - 7.5 * px, width: 16 * px, height: 16 * px, fill: "#000",
        align: "center", verticalAlign: "middle", text: String(numbers[i]), fontSize: 11 * px,
        fontStyle: "bold", fontFamily: "sans-serif",
    }))
    return group
}
