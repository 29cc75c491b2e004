"""What each CPU kernel of our own pays over a library's: the tables of model_bench.py --kernels.

Two tables for each size of network, both of one U-Net evaluation on one thread, in CPU seconds,
which a busy machine disturbs little; everything that is compared runs by turns in one process.

Kernels: every call of the network in each form that there is, on the same input, the best of some
repetitions, summed over the calls. `eager` is LibTorch's operators; `onednn` and `mkl` are those
that its compiler calls, whose weights are laid out before the clock starts. A library's picture is
given in the memory order that it wants, so its price for turning it is not counted.

Networks: the whole evaluation with one kernel, or all, in the library's best form, the best of some
turns; and the tuned diffusers and torch.compile of it.
"""
VARIANTS = ["plain", "channels_last", "fused_qkv", "channels_last+fused_qkv"]
KERNELS = {"product": "products", "conv3x3": "3x3 convolutions (Winograd)",
           "conv": "other convolutions", "attention": "attention", "group_norm": "group norm",
           "layer_norm": "layer norm", "geglu": "GEGLU"}


def best_library(forms):
    return min((form for form in forms if form not in ("own", "product")), key=forms.get)


def chosen(kernel, form):
    """As ChooseKernelForms of kernel_forms.h reads it: a network keeps pictures channels last."""
    return f"{kernel}={form.split(',')[0]}"


def kernel_rows(name, seconds):
    print(f"\n| {name}: kernel | own, ms | libraries' forms, ms | own pays |\n| --- | --- | --- | --- |")
    for kernel, title in KERNELS.items():
        forms = seconds.get(kernel)
        if not forms:
            continue
        others = {form: value for form, value in forms.items() if form != "own"}
        shown = "; ".join(f"{'own product' if form == 'product' else form} {1e3 * value:.3g}"
                          for form, value in sorted(others.items(), key=lambda item: item[1]))
        ratio = forms[best_library(forms)] / forms["own"]
        print(f"| {title} | {1e3 * forms['own']:.3g} | {shown} | {ratio:.2f} |", flush=True)


def network_choices(seconds):
    """Rows of whole networks: label and choice."""
    best = {kernel: chosen(kernel, best_library(forms)) for kernel, forms in seconds.items()}
    rows = {"d2g": "plain"}
    for kernel, choice in best.items():
        rows[f"d2g, {KERNELS[kernel]} by {choice.split('=')[1]}"] = choice
    rows["d2g, no Winograd"] = "conv3x3=product"
    rows["d2g, all by the best library form"] = "+".join(best.values())
    rows["d2g, all eager"] = "+".join(f"{kernel}=eager" for kernel in seconds)
    return rows


def by_turns(half, choices, turns, count):
    """The least CPU seconds of each choice."""
    least = {}
    for turn in range(turns + 1):
        for label, choice in choices.items():
            # The first turn lays weights out.
            cpu = half.run(1 if turn == 0 else count, choice)[1]
            if turn > 0:
                least[label] = min(cpu, least.get(label, cpu))
    return least


def network_rows(name, least):
    print(f"\n| {name}: one evaluation | CPU, ms | over d2g |\n| --- | --- | --- |")
    for label, seconds in least.items():
        print(f"| {label} | {1e3 * seconds:.4g} | {seconds / least['d2g']:.3f} |", flush=True)


def compare(name, half, start_peer, turns, large):
    """half: our program, ready. start_peer starts the other one, after which ours may have ended."""
    seconds = half.compare()
    if not large:  # Each call's least of several evaluations.
        for _ in range(2):
            for kernel, forms in half.compare().items():
                for form, value in forms.items():
                    seconds[kernel][form] = min(seconds[kernel][form], value)
    kernel_rows(name, seconds)
    count = 1 if large else max(1, round(0.2 / half.run(3)[1]))
    least = by_turns(half, network_choices(seconds), turns, count)
    if large:
        half.end()
    peer = start_peer()
    tried = {variant: min(peer.run(1, variant)[1] for _ in range(1 if large else 3))
             for variant in VARIANTS}
    best = min(tried, key=tried.get)
    count = 1 if large else max(1, round(0.2 / tried[best]))
    least |= by_turns(peer, {f"diffusers, {best}": best}, turns, count)
    least |= by_turns(peer, {"diffusers, torch.compile": best + "+compiled"}, turns, count)
    peer.end()
    if not large:
        half.end()
    network_rows(name, least)
