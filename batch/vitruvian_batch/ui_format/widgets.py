"""The inputs and widgets that ComfyUI's front end gives a node of a class, and their saved values.

A saved workflow holds the widgets' values in the order in which the front end shows them. That
order follows from the class in the host's /object_info: its inputs, and what the front end adds to
them (a word after a seed, upload buttons). Two kinds grow with their values: a dynamic combo brings
the inputs of the option that is chosen, and the custom combo has one more option than is filled.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Missing(Enum):
    """JavaScript's undefined: no value at all, which is not sent to the host."""

    VALUE = 0


MISSING = Missing.VALUE
SEEDS = ("seed", "noise_seed")
DYNAMIC_COMBO, AUTOGROW, MATCH_TYPE = (
    "COMFY_DYNAMICCOMBO_V3",
    "COMFY_AUTOGROW_V3",
    "COMFY_MATCHTYPE_V3",
)
UPLOAD, CONTROL = "UPLOAD_BUTTON", "CONTROL"  # widgets that the front end adds
CUSTOM_COMBO = "CustomCombo"
BOX = {"x": 0, "y": 0, "width": 512, "height": 512}
CURVE = {"points": [[0, 0], [1, 1]], "interpolation": "monotone_cubic"}
# The value of a widget that neither its class nor the workflow gives one, by the widget's type.
DEFAULTS: dict[str, Any] = {
    "INT": 0,
    "FLOAT": 0,
    "BOOLEAN": False,
    "STRING": "",
    "MARKDOWN": "",
    "TEXTAREA": "",
    "COMBO": MISSING,
    DYNAMIC_COMBO: MISSING,
    "COLOR": "#000000",
    "COLORS": [],
    "BOUNDING_BOX": BOX,
    "BOUNDING_BOXES": [],
    "CURVE": CURVE,
    "RANGE": {"min": 0.0, "max": 1.0},
    "CHART": {},
    "GALLERIA": [],
    "PAINTER": "",
    "IMAGECOMPARE": ["", ""],
    "COMPOSITOR": MISSING,
    "VIDEO_EDIT": MISSING,
    "WEBCAM": "",
    "AUDIO_RECORD": "",
    "LOAD_3D": "",
    "LOAD_3D_ANIMATION": "",
}
IN_BROWSER = {  # their values are made in the browser at the moment of queueing
    "WEBCAM": "takes its image with the browser's camera",
    "LOAD_3D": "draws its image in the browser",
    "LOAD_3D_ANIMATION": "draws its image in the browser",
}


@dataclass
class Spec:
    """An input as its class declares it. options: the second part of its entry in /object_info."""

    name: str
    type: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def widget_type(self) -> str:
        """Return the type whose widget the front end shows."""
        return str(self.options.get("widgetType") or self.type)

    @property
    def is_widget(self) -> bool:
        """Tell if the front end shows a widget for it, not only a socket."""
        has_widget = self.widget_type in DEFAULTS or "widgetType" in self.options
        return has_widget and not self.options.get("forceInput")

    @property
    def choices(self) -> list[Any]:
        """List what a combo offers."""
        options = self.options.get("options")
        if not isinstance(options, list):
            return []
        if self.widget_type == DYNAMIC_COMBO:
            return [option.get("key") for option in options if isinstance(option, dict)]
        return options

    def default(self) -> Any:
        """Return the value before any other is set."""
        if self.widget_type == "COMBO":
            if self.options.get("multi_select"):
                return []
            loading = "Loading..." if self.options.get("remote") else MISSING
            return self.options.get("default") or next(iter(self.choices), loading)
        if self.widget_type == DYNAMIC_COMBO:
            return next(iter(self.choices), MISSING)
        value = self.options.get("default")
        return DEFAULTS.get(self.widget_type, DEFAULTS.get(self.type)) if value is None else value


@dataclass
class Widget:
    """A widget of a node. place: its index or name among the node's saved values, if it has one.

    is_sent: the host gets its value. is_saved: it has a place among the saved values. inner: the
    node inside a subgraph and its widget, whose value this one of the subgraph's node shows.
    fed_by: the Primitive node whose value it takes.
    """

    name: str
    value: Any
    spec: Spec
    place: int | str | None = None
    is_sent: bool = True
    is_saved: bool = True
    inner: tuple[Any, Widget] | None = None
    fed_by: Any = None

    @property
    def is_dynamic_text(self) -> bool:
        """Tell if {a|b} in its text is replaced when it is queued."""
        return bool(self.spec.options.get("dynamicPrompts"))


def specs_of(kind: dict[str, Any]) -> list[Spec]:
    """List the inputs of a class of /object_info in the order in which the front end shows them."""
    sections = kind.get("input") or {}
    order = kind.get("input_order") or {}
    specs: list[Spec] = []
    for section in ("required", "optional"):
        inputs = sections.get(section) or {}
        names = [name for name in order.get(section) or () if name in inputs]
        specs += [_spec(name, inputs[name]) for name in dict.fromkeys([*names, *inputs])]
    return specs + _uploads(kind.get("name", ""), specs)


def _spec(name: str, entry: Any) -> Spec:
    """Read an input's entry: [type, options], or [[choices], options] for a combo."""
    kind = entry[0] if isinstance(entry, list) and entry else "*"
    options = entry[1] if isinstance(entry, list) and len(entry) > 1 else {}
    options = options if isinstance(options, dict) else {}
    if isinstance(kind, list):
        return Spec(name, "COMBO", {**options, "options": kind})
    return Spec(name, str(kind), options)


def _uploads(kind: str, specs: list[Spec]) -> list[Spec]:
    """The button that the front end puts last, if a combo names a file that may be uploaded."""
    uploads = ("image_upload", "video_upload", "animated_image_upload", "audio_upload")
    takes_files = any(
        spec.type == "COMBO" and any(spec.options.get(key) is True for key in uploads)
        for spec in specs
    )
    return [Spec("upload", UPLOAD)] if takes_files else []


def widgets_of(kind: dict[str, Any], saved: Any) -> list[Widget]:
    """List the widgets of a node with its saved values. saved: a list, a dict by names, or None."""
    values = _Saved(kind, saved)
    widgets: list[Widget] = []
    waiting = deque(_all(specs_of(kind)))
    while waiting:
        widget = waiting.popleft()
        values.restore(widget)
        widgets.append(widget)
        if widget.spec.widget_type == DYNAMIC_COMBO:
            waiting.extendleft(reversed(_all(option_specs(widget.spec, widget.value))))
    if kind.get("name") == CUSTOM_COMBO:
        widgets += _custom_options(widgets, values)
    for widget in widgets:
        if widget.spec.type == "COMBO" and widget.value is None and widget.spec.choices:
            widget.value = widget.spec.choices[0]
    return widgets


class _Saved:
    """The saved values of a node, handed out in order; or by name, as some packs save them."""

    def __init__(self, kind: dict[str, Any], saved: Any) -> None:
        self.by_name = saved if isinstance(saved, dict) else None
        values = list(enumerate(saved)) if isinstance(saved, list) else []
        self.values = deque(_without_sockets(kind, values))

    def restore(self, widget: Widget) -> None:
        if self.by_name is not None:
            if widget.is_saved and widget.name in self.by_name:
                widget.place, widget.value = widget.name, self.by_name[widget.name]
        elif widget.is_saved and self.values:
            widget.place, widget.value = self.values.popleft()


def _without_sockets(kind: dict[str, Any], values: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """Leave out the values that early front ends saved for inputs that are sockets only.

    They are there if the number of values says so.
    """
    is_socket: list[bool] = []
    for spec in specs_of(kind):
        forced = bool(spec.options.get("forceInput"))
        if forced or spec.is_widget or spec.type == UPLOAD:
            is_socket += [forced]
            is_socket += [False] if spec.options.get("control_after_generate") else []
    if len(is_socket) != len(values):
        return values
    return [value for value, socket in zip(values, is_socket, strict=True) if not socket]


def _all(specs: list[Spec]) -> list[Widget]:
    return [widget for spec in specs for widget in _widgets(spec)]


def _widgets(spec: Spec) -> list[Widget]:
    """List the widgets of one input: its own, and those that the front end puts behind it."""
    if spec.type == UPLOAD:
        return [Widget(spec.name, "image", spec, is_sent=False)]
    if not spec.is_widget:
        return []
    kind = spec.widget_type
    saved = kind != "IMAGECOMPARE"
    behind: list[str] = []
    if _is_controlled(spec):
        behind = ["control_after_generate"]
        behind += ["control_filter_list"] if kind == "COMBO" else []
    elif kind == "BOUNDING_BOX":
        behind = ["x", "y", "width", "height"]
    remote = spec.options.get("remote")
    if isinstance(remote, dict):
        behind = ["Auto-refresh after generation", *behind]
        behind = [*behind, "refresh"] if remote.get("refresh_button") else behind
    elif kind.startswith("LOAD_3D"):
        behind = []
    extras = [Widget(name, None, Spec(name, CONTROL), is_sent=False) for name in behind]
    return [Widget(spec.name, spec.default(), spec, is_saved=saved), *extras]


def _is_controlled(spec: Spec) -> bool:
    """Tell if a word beside the widget says how its value changes after queueing."""
    named = spec.options.get("control_after_generate")
    if spec.widget_type == "INT" and named is None:
        return spec.name in SEEDS
    return bool(named) and spec.widget_type in ("INT", "FLOAT", "COMBO")


def option_specs(spec: Spec, value: Any) -> list[Spec]:
    """List the inputs that the chosen option of a dynamic combo brings, named combo.input."""
    for option in spec.options.get("options") or ():
        if isinstance(option, dict) and option.get("key") == value:
            inner = specs_of({"input": option.get("inputs")})
            return [Spec(f"{spec.name}.{s.name}", s.type, s.options) for s in inner]
    return []


def option_widgets(combo: Spec, value: Any, values: dict[str, Any]) -> list[Widget]:
    """List the widgets that an option of a dynamic combo brings, with these or first values."""
    waiting = deque(_all(option_specs(combo, value)))
    widgets = []
    while waiting:
        widget = waiting.popleft()
        widget.value = values.get(widget.name, widget.value)
        widgets.append(widget)
        if widget.spec.widget_type == DYNAMIC_COMBO:
            waiting.extendleft(reversed(_all(option_specs(widget.spec, widget.value))))
    return widgets


def option_sockets(combo: Spec, value: Any, connected: set[str]) -> set[str]:
    """Return the names of the inputs without a widget that an option of a dynamic combo brings."""
    specs = [spec for spec in option_specs(combo, value) if not spec.is_widget]
    return {socket.name for spec in specs for socket in _sockets(spec, connected)}


def _custom_options(widgets: list[Widget], values: _Saved) -> list[Widget]:
    """List the custom combo's index and options: as many as are filled, and an empty one."""
    index = Widget("index", -1, Spec("index", CONTROL))
    values.restore(index)
    options: list[Widget] = []
    while True:
        name = f"option{len(options) + 1}"
        option = Widget(name, "", Spec(name, "STRING"))
        values.restore(option)
        options.append(option)
        if not option.value:
            break
    index.place, index.value = None, custom_index(widgets[0].value, [w.value for w in options])
    return [index, *options]


def custom_index(choice: Any, options: list[Any]) -> int:
    """Return the place of the custom combo's choice among its options, -1 if it is none of them."""
    return options.index(choice) if choice in options else -1


def sockets_of(kind: dict[str, Any], widgets: list[Widget], connected: set[str]) -> list[Spec]:
    """List a node's inputs that can be wired, in the front end's order: the widgets' come last.

    connected: the names of the inputs that are wired, by which lists of inputs grow.
    """
    specs = specs_of(kind)
    sockets = [s for spec in specs if not spec.is_widget for s in _sockets(spec, connected)]
    for widget in widgets:
        if widget.spec.is_widget and not widget.spec.options.get("socketless"):
            sockets.append(Spec(widget.name, widget.spec.type, widget.spec.options))
        if widget.spec.widget_type == DYNAMIC_COMBO:
            inner = option_specs(widget.spec, widget.value)
            sockets += [s for s_ in inner if not s_.is_widget for s in _sockets(s_, connected)]
    return sockets


def _sockets(spec: Spec, connected: set[str]) -> list[Spec]:
    """List the sockets of one input without a widget."""
    template = spec.options.get("template")
    if spec.type == UPLOAD:
        return []
    if spec.type == MATCH_TYPE and isinstance(template, dict):
        return [Spec(spec.name, str(template.get("allowed_types")))]
    if spec.type == AUTOGROW and isinstance(template, dict):
        return _grown(spec, template, connected)
    return [spec]


def _grown(spec: Spec, template: dict[str, Any], connected: set[str]) -> list[Spec]:
    """List the sockets of an input that grows: the least, or one more than are wired."""
    inner = specs_of({"input": template.get("input")})
    names, most = template.get("names"), template.get("max", 100)
    most = len(names) if names else most
    count = max(template.get("min", 1) + 1, 1)
    grown: list[Spec] = []
    for n in range(most):
        group = []
        for one in inner:
            base = names[n] if names else f"{template.get('prefix', '')}{n}"
            base = f"{one.name}{n}" if len(inner) > 1 and not names else base
            group.append(Spec(f"{spec.name}.{base}", one.type, one.options))
        if n >= count and not connected & {socket.name for socket in group}:
            grown += group if grown[-1].name in connected else []
            break
        grown += group
    return grown
