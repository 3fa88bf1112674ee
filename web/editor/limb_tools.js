// The tools below the canvas: turning the person, and the poses of hands and feet.

import { scaled, rotated } from "./geometry.js"
import * as hands from "./hand_poses.js"
import { bentOtherWay, limbEnd } from "./limbs.js"
import { icon } from "./icons.js"
import { el, tool } from "./parts.js"
import { BONES, PARTS, R_WRIST } from "./skeleton.js"
import { angleOf, turnedTo } from "./turning.js"
import { say } from "./words.js"

/** Colors of left and right, for the names of hands and feet. */
export const SIDES = { left: "#4fc3f7", right: "#ffb74d" }
export const colorOf = (limb) => (limb.startsWith("left") ? SIDES.left : SIDES.right)
const LIMBS = Object.keys(hands.LIMB_ENDS)
const STEP = Math.PI / 12
const GROWTH = 1.1
const DEPTH = 15 // degrees

export class LimbTools {
    /** session: whom the tools change; focus: gives the canvas the keyboard. */
    constructor(session, focus) {
        this.session = session
        const button = (name, title, onUse) =>
            Object.assign(tool(icon(name), title, "button", onUse), { name })
        this.slider = this.makeSlider(focus)
        this.angle = el("output", { className: "angle" })
        this.limbs = LIMBS.map((limb) => this.makeChoice(limb))
        this.tiles = el("div", { className: "group tiles" })
        const person = el("div", { className: "group" },
            button("turnLeft", say("Rotate to the left (Shift+R)"), () => this.rotate(-1)),
            button("turnRight", say("Rotate to the right (R)"), () => this.rotate(1)),
            button("smaller", say("Smaller (Shift+S)"), () => this.scale(-1)),
            button("larger", say("Larger (S)"), () => this.scale(1)),
            button("bend", say("Bend the chosen limb the other way (B)"), () => this.bend()))
        const depth = el("label", { className: "depth", title: say("Turn in depth (T, Shift+T)") },
            say("turn"), this.slider, this.angle)
        const end = el("div", { className: "group" },
            button("turnLeft", say("Turn the hand or foot to the left"), () => this.turn(-1)),
            button("turnRight", say("Turn the hand or foot to the right"), () => this.turn(1)),
            button("mirror", say("Mirror the hand or foot (N)"), () => this.flip()))
        this.element = el("div", { className: "limbs", role: "group" },
            el("div", { className: "row" }, depth, person),
            el("div", { className: "row" }, el("div", { className: "group" }, ...this.limbs), end),
            this.tiles)
        this.element.setAttribute("aria-label", say("Turning, hands and feet"))
        this.element.addEventListener("click", ({ detail }) => detail && focus())
    }

    makeSlider(focus) {
        const slider = el("input", { type: "range", min: -180, max: 180, step: 5, value: 0 })
        slider.setAttribute("aria-label", say("Turn in depth (T, Shift+T)").replace(/ \(.*/, ""))
        slider.addEventListener("input", () => {
            this.session.preview((person) => turnedTo(person, Number(slider.value)))
        })
        slider.addEventListener("change", () => this.session.keepPreview())
        slider.addEventListener("pointerup", () => focus())
        return slider
    }

    makeChoice(limb) {
        const name = say(hands.LIMB_ENDS[limb].name)
        const choice = tool("", name, "button", () => this.choose(limb), name)
        choice.dataset.limb = limb
        choice.style.setProperty("--side", colorOf(limb))
        return choice
    }

    // what the tools and their keys do

    choose(limb) {
        this.session.select(this.session.selected, hands.LIMB_ENDS[limb].joint)
    }

    nextLimb(step) {
        const at = LIMBS.indexOf(this.session.limb) + step + LIMBS.length
        this.choose(LIMBS[at % LIMBS.length])
    }

    pose(name) {
        const { limb } = this.session
        this.session.editPerson((person) => hands.withPose(person, limb, name))
    }

    nextPose(step) {
        const names = hands.posesOf(this.session.limb)
        const at = names.indexOf(this.lastPose)
        this.lastPose = names[(at + step + names.length) % names.length]
        this.pose(this.lastPose)
    }

    turn(way) {
        const { limb } = this.session
        this.session.editPerson((person) => hands.turned(person, limb, way * STEP))
    }

    flip() {
        this.session.editPerson((person) => hands.flipped(person, this.session.limb))
    }

    /** Rotates the hand or foot that holds the chosen joint, else the person. */
    rotate(way) {
        const { joint, limb } = this.session
        if (joint !== null && hands.LIMB_ENDS[limb].points.concat(hands.LIMB_ENDS[limb].joint).includes(joint))
            return this.turn(way)
        this.session.editPerson((person) => rotated(person, middleOf(person), way * STEP))
    }

    scale(way) {
        this.session.editPerson((person) => scaled(person, middleOf(person), GROWTH ** way))
    }

    turnInDepth(way) {
        this.session.editPerson((person) => turnedTo(person, angleOf(person) + way * DEPTH))
    }

    bend() {
        const end = limbEnd(this.session.joint) ?? hands.LIMB_ENDS[this.session.limb].joint
        this.session.editPerson((person) => bentOtherWay(person, end))
    }
}
