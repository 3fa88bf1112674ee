// The panel of poses: those of the library, the artist's own, and those of a connected pose.

import { bounds, isKnown } from "./geometry.js"
import { icon } from "./icons.js"
import { el, tool } from "./parts.js"
import { LIMBS } from "./skeleton.js"
import * as states from "./state.js"
import { fileName } from "./user_poses.js"
import { say } from "./words.js"

/** People as a small image. */
function thumbnail({ people }) {
    const boxes = people.map((person) => bounds(person)).filter(Boolean)
    const edge = (name, pick) => pick(...boxes.map((box) => box[name]))
    const [left, right] = [edge("left", Math.min), edge("right", Math.max)]
    const [top, bottom] = [edge("top", Math.min), edge("bottom", Math.max)]
    const side = Math.max(right - left, bottom - top, 1) * 1.1
    const [x, y] = [(left + right - side) / 2, (top + bottom - side) / 2]
    const lines = people.flatMap(({ points }) => LIMBS.map(([a, b], i) => {
        const [from, to] = [points[a], points[b]]
        if (!isKnown(from) || !isKnown(to)) return ""
        const ends = `x1="${from[0]}" y1="${from[1]}" x2="${to[0]}" y2="${to[1]}"`
        return `<line ${ends} stroke="hsl(${20 * i} 90% 45%)" stroke-width="${side / 30}"/>`
    }))
    return `<svg viewBox="${x} ${y} ${side} ${side}" aria-hidden="true">${lines.join("")}</svg>`
}

/** The entries { name, group, state } that the search names, as they are called in any language. */
export function matching(entries, search) {
    const words = search.toLowerCase().split(/\s+/).filter(Boolean)
    const names = ({ name, group }) => [name, group, say(name), say(group)].join(" ").toLowerCase()
    return entries.filter((entry) => words.every((word) => names(entry).includes(word)))
}

/** The frame of these people of a state, as it is saved and exported. */
export const frameOf = (state, people = state.people) =>
    JSON.parse(states.serialize({ ...state, people }))

/** Lets the browser save a frame as a file. */
export function download(name, frame) {
    const url = URL.createObjectURL(new Blob([JSON.stringify(frame)], { type: "application/json" }))
    el("a", { href: url, download: `${fileName(name) || "pose"}.json` }).click()
    setTimeout(() => URL.revokeObjectURL(url), 10_000)
}

export class Library {
    /** userPoses: the artist's own; onChosen: called after a choice; onFiles: with files. */
    constructor(session, userPoses, { onChosen, onFiles }) {
        Object.assign(this, { session, userPoses, onChosen, replaces: false, saved: [] })
        this.search = el("input", {
            type: "search", placeholder: say("Search poses"), "aria-label": say("Search poses"),
        })
        this.search.addEventListener("input", () => this.render())
        const picker = el("input", { type: "file", accept: ".json,image/*", multiple: true })
        picker.addEventListener("change", () => onFiles([...picker.files]))
        const people = () => session.shown.people
        this.mode = this.button("Replace the chosen person", () => this.switchMode())
        const head = el("div", { className: "shelf-tools" }, this.search, this.mode,
            this.button("Save the chosen person",
                () => session.person && this.save([session.person])),
            this.button("Save everybody", () => this.save(people())),
            this.button("Export as JSON", () => download("pose", frameOf(session.shown))),
            this.button("Open a file", () => picker.click()))
        this.form = el("form", { className: "shelf-tools", hidden: true })
        this.said = el("div", { className: "said", role: "status" })
        this.shelves = el("div", {})
        this.element = el("div", { className: "panel library", hidden: true },
            head, this.form, this.said, this.shelves)
    }

    button(text, onUse) {
        const one = el("button", { type: "button", className: "wide", textContent: say(text) })
        one.addEventListener("click", onUse)
        return one
    }

    switchMode() {
        this.replaces = !this.replaces
        this.render()
    }

    /** Shows what there is now; the artist's poses follow when the server has sent them. */
    async open() {
        this.form.hidden = true
        this.said.textContent = this.search.value = ""
        this.render()
        await this.attempt(async () => {
            const names = await this.userPoses.list()
            const read = (name) => this.userPoses.read(name).then((frame) =>
                ({ name, group: "own poses", isOwn: true, frame, state: states.fromFrame(frame) }))
            const answers = await Promise.allSettled(names.map(read))
            this.saved = answers.map(({ value }) => value).filter((one) => one?.state.people.length)
            this.render()
            const wrong = answers.find((one) => one.status === "rejected")
            if (wrong) throw wrong.reason
        })
    }

    /** Does what may go wrong, and says what went wrong. */
    async attempt(action) {
        try {
            await action()
        } catch (error) {
            this.said.textContent = error.message
        }
    }

    render() {
        this.mode.setAttribute("aria-pressed", this.replaces)
        const offered = this.session.offers()
        const given = offered.filter(({ group }) => group === "connected")
        const rest = offered.filter(({ group }) => group !== "connected")
        const entries = matching([...given, ...this.saved, ...rest], this.search.value)
        const groups = [...new Set(entries.map(({ group }) => group))]
        this.shelves.replaceChildren(...groups.flatMap((group) => [
            el("h4", { textContent: say(group) }),
            el("div", { className: "poses" },
                ...entries.filter((one) => one.group === group).map((one) => this.tile(one))),
        ]))
        if (!groups.length) this.shelves.textContent = say("No pose is called so.")
    }

    tile(entry) {
        const name = entry.isOwn ? entry.name : say(entry.name)
        const title = say(this.replaces ? "Replace: <name>" : "Add: <name>", { name })
        const choose = () => this.choose(entry.state)
        const tile = tool(thumbnail(entry.state), title, "button", choose, name)
        if (!entry.isOwn) return tile
        const small = (image, text, onUse) =>
            tool(icon(image), say(text, { name }), "button", onUse)
        return el("div", { className: "own" }, tile, el("div", { className: "group" },
            small("rename", "Rename: <name>", () => this.rename(name)),
            small("export", "Export: <name>", () => download(name, entry.frame)),
            small("remove", "Delete: <name>", () => this.remove(name))))
    }

    choose(state) {
        const { session } = this
        this.onChosen()
        if (this.replaces && session.person) session.repose(state)
        else session.add(state)
    }

    // the artist's own

    /** Asks for a name and calls onName with it until that says that all is well. */
    ask(question, name, onName) {
        const field = el("input", { value: name, maxLength: 80, "aria-label": say(question) })
        const done = el("button", { className: "wide", textContent: say("OK") })
        this.form.replaceChildren(say(question), field, done,
            this.button("Cancel", () => (this.form.hidden = true)))
        this.form.onsubmit = (event) => {
            event.preventDefault()
            const chosen = fileName(field.value)
            if (chosen) this.attempt(async () => (await onName(chosen)) && this.open())
        }
        this.form.hidden = false
        field.select()
    }

    /** Asks whether to do something that takes something away. */
    confirm(question, onYes) {
        const yes = this.button("Yes", () => this.attempt(async () => {
            await onYes()
            await this.open()
        }))
        this.form.replaceChildren(question, yes, this.button("No", () => (this.form.hidden = true)))
        this.form.hidden = false
        yes.focus({ preventScroll: true })
    }

    save(people) {
        if (!people.length) return
        const frame = frameOf(this.session.shown, people)
        this.ask("Name of the pose", "", async (name) => {
            if (await this.userPoses.save(name, frame)) return true
            const question = say("There is a pose “<name>” already. Replace it?", { name })
            this.confirm(question, () => this.userPoses.save(name, frame, true))
        })
    }

    rename(name) {
        this.ask("New name", name, async (other) => {
            if (other === name || (await this.userPoses.rename(name, other))) return true
            this.said.textContent = say("There is a pose “<name>” already.", { name: other })
        })
    }

    remove(name) {
        this.confirm(say("Delete the pose “<name>”?", { name }), () => this.userPoses.remove(name))
    }
}
