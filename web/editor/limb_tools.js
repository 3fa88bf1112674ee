// The tools below the canvas: turning the person, and the poses of hands and feet.

import {
    LIMB_ENDS, colorOf, flipped, isHand, isLeft, posesOf, shapeOf, turned, withPose,
} from "./hand_poses.js"
import { icon } from "./icons.js"
import { bentOtherWay, limbEnd } from "./limbs.js"
import { el, tool } from "./parts.js"
import { BONES, PARTS, hue } from "./skeleton.js"
import { angleOf, turnedTo } from "./turning.js"
import { say } from "./words.js"

const LIMBS = Object.keys(LIMB_ENDS)
const STEP = Math.PI / 12
const DEPTH = 15 // degrees a press of a key

export class LimbTools {
    /** session: whom the tools change; focus: gives the canvas the keyboard. */
    constructor(session, focus) {
        this.session = session
        this.focus = focus
        const button = (name, title, onUse) => {
            const one = tool(icon(name), say(title), "button", onUse)
            one.dataset.tool = name
            return one
        }
        const bend = el("div", { className: "group" },
            button("bend", "Bend the limb the other way (B)", () => this.bend()))
        const end = el("div", { className: "group" },
            button("handLeft", "Turn the hand or foot to the left (Shift+R)", () => this.turn(-1)),
            button("handRight", "Turn the hand or foot to the right (R)", () => this.turn(1)),
            button("flip", "Mirror the hand or foot (N)", () => this.flip()))
        this.choices = LIMBS.map((limb) => this.choice(limb))
        this.tiles = el("div", { className: "group tiles" })
        this.element = el("div", { className: "limbs", role: "group" },
            el("div", { className: "row" }, this.depth(), bend),
            el("div", { className: "row" },
                el("div", { className: "group" }, ...this.choices), end),
            this.tiles)
        this.element.setAttribute("aria-label", say("Turning, hands and feet"))
        this.element.addEventListener("click", ({ detail, target }) =>
            detail && target.closest("button") && focus())
    }

    /** The slider that turns the person in depth: a preview while it moves, then one edit. */
    depth() {
        const title = say("Turn in depth (D, Shift+D)")
        const range = { type: "range", min: -180, max: 180, step: 5, value: 0 }
        this.slider = el("input", { ...range, "aria-label": title.replace(/ ?[(（].*/, "") })
        this.angle = el("output", { className: "angle" })
        this.slider.addEventListener("input", () =>
            this.session.preview((person) => turnedTo(person, Number(this.slider.value))))
        this.slider.addEventListener("change", () => this.session.keepPreview())
        this.slider.addEventListener("pointerup", () => this.focus())
        return el("label", { className: "depth", title }, say("turn"), this.slider, this.angle)
    }

    choice(limb) {
        const name = say(LIMB_ENDS[limb].name)
        const one = tool("", name, "button", () => this.choose(limb), name)
        one.dataset.limb = limb
        one.style.setProperty("--side", colorOf(limb))
        return one
    }

    render() {
        const { person, limb } = this.session
        const angle = Math.round(angleOf(person))
        this.slider.value = angle
        this.angle.textContent = `${angle}°`
        if (this.tiled !== limb) {
            this.tiled = limb
            this.tiles.replaceChildren(...posesOf(limb).map((name) => this.tile(limb, name)))
        }
        for (const one of this.choices) one.setAttribute("aria-pressed", one.dataset.limb === limb)
        for (const one of this.element.querySelectorAll("button, input")) one.disabled = !person
    }

    tile(limb, name) {
        const title = `${say(LIMB_ENDS[limb].name)}: ${say(name)}`
        const one = tool(thumbnail(limb, name), title, "button", () => this.pose(name))
        one.dataset.pose = name
        return one
    }

    /** What the keys do, by their names; way: -1 with Shift, else 1; held: more of it comes. */
    keys(way, held) {
        return {
            d: () => this.turnInDepth(way, held), b: () => this.bend(), k: () => this.nextLimb(way),
            o: () => this.nextPose(way), r: () => this.turn(way, held), n: () => this.flip(),
        }
    }

    // what the tools and their keys do

    choose(limb) {
        const { person, selected } = this.session
        if (person) this.session.select(selected, LIMB_ENDS[limb].joint)
    }

    nextLimb(step) {
        const at = LIMBS.indexOf(this.session.limb) + step + LIMBS.length
        this.choose(LIMBS[at % LIMBS.length])
    }

    pose(name) {
        const { limb } = this.session
        this.session.editPerson((person) => withPose(person, limb, name))
    }

    nextPose(step) {
        const names = posesOf(this.session.limb)
        const at = Math.max(names.indexOf(this.lastPose), step < 0 ? 0 : -1)
        this.lastPose = names[(at + step + names.length) % names.length]
        this.pose(this.lastPose)
    }

    turn(way, held = false) {
        const { limb } = this.session
        this.session.editPerson((person) => turned(person, limb, way * STEP), held)
    }

    flip() {
        this.session.editPerson((person) => flipped(person, this.session.limb))
    }

    turnInDepth(way, held) {
        const turn = (person) => turnedTo(person, angleOf(person) + way * DEPTH)
        this.session.editPerson(turn, held)
    }

    bend() {
        const end = limbEnd(this.session.joint) ?? LIMB_ENDS[this.session.limb].joint
        this.session.editPerson((person) => bentOtherWay(person, end))
    }
}

/** A pose as a small image: a hand that is held up, a foot as seen from the front. */
function thumbnail(limb, name) {
    const outward = isLeft(limb) === isHand(limb) ? -1 : 1
    const up = isHand(limb) ? -1 : 1
    const points = shapeOf(limb, name).map(([x, y]) => [outward * y, up * x])
    const fingers = BONES.slice(0, 20).map((bone) => bone.map((i) => i - PARTS.leftHand.start))
    const [bones, box] = isHand(limb)
        ? [fingers.map(([a, b]) => [points[a], points[b]]), "-.62 -1.02 1.24 1.08"]
        : [[[0, -0.35], ...points].map((point) => [[0, 0], point]), "-.8 -.4 1.6 1.3"]
    const lines = bones.map(([[x1, y1], [x2, y2]], i) =>
        `<line x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}" stroke="${hue(i, bones.length)}"/>`)
    return `<svg viewBox="${box}" aria-hidden="true">${lines.join("")}</svg>`
}
