"""Mistakes in what the command line or a recipe says."""

from tests.helpers.bad_input.case import Case, quantize

__all__ = ["OPTIONS"]


def _option(what: str, says: str, *more: str, **changed: str) -> Case:
    return Case(what, quantize(*more, **changed), says, torch=False)


def _recipe(what: str, says: str, content: str) -> Case:
    return Case(what, quantize("--config", "r.toml"), says, lambda at: (at / "r.toml").write_text(content), torch=False)


LONG = "a" * 5000

OPTIONS = (
    *(_option(f"{bits} bits", "--bits", bits=bits) for bits in ("0", "1", "9", "-3", "four", "4.5")),
    _option("16 bits for activations", "--act-bits", "--act-bits", "16"),
    _option("no such preset", "--preset", "--preset", "quick"),
    _option("no such method", "--method", "--method", "magic"),
    _option("no such format", "--format", "--format", "zip"),
    _option("a negative seed", "--seed", "--seed", "-1"),
    _option("a seed of 70 bits", "--seed", "--seed", str(2**70)),
    _option("no threads", "--threads", "--threads", "0"),
    _option("100,000 threads", "--threads", "--threads", "100000"),
    _option("a size of 0", "--size: '0' is no size; give 224", "--size", "0"),
    _option("half a size", "--size: '224x' is no size; give 224", "--size", "224x"),
    _option("a mean that is no number", "--mean: 'nan'; give a number for each", "--mean", "nan"),
    _option("a deviation that is a word", "--std: 'red'; give a number for each", "--std", "red"),
    _option("a memory limit that is no size", "--memory-limit: 'lots' is no size; give 1GiB", "--memory-limit", "lots"),
    _option("a memory limit beyond all machines", "more than any machine has", "--memory-limit", "9" * 30 + "TB"),
    _option("a budget that is no size", "--max-size: 'small' is no size; give 1GiB", "--max-size", "small"),
    _option("two budgets", "--max-size and --min-agreement: give one", "--max-size", "3MB", "--min-agreement", "98"),
    _option("more than all predictions", "--min-agreement", "--min-agreement", "101"),
    _option("a drop without labels", "--max-drop: give --data", "--max-drop", "1"),
    _option("a range that is none", "--range cannot be 127", "--range", "127"),
    _option("a metric's file that is not there", "--metric: there is no file no.py", "--metric", "no.py:metric"),
    _option("a metric that names no function", "--metric: there is no file net.py", "--metric", "net.py"),
    _option("no such task", "--task: unknown task 'segment'; choose one of classify, dense", "--task", "segment"),
    _option("no such device", "--device: 'gpu'; give cpu, cuda or cuda:N", "--device", "gpu"),
    _option("an option that does not exist", "--color", "--color", "red"),
    _option("data that are not there", "--data: there is nothing at nowhere", "--data", "nowhere"),
    _option("weights that are not there", "--weights: there is nothing at no.pth", "--weights", "no.pth"),
    _option("a path longer than the system allows", "--weights: there is nothing at aaa", "--weights", LONG),
    _option("images misspelt", "--images: 'mixmax' is none of mixmix, zeroq", images="mixmax"),
    _option("a comma too many in the teachers", "--teachers: name a model", "--teachers", "resnet18,,"),
    _option("a teacher's file that is not there", "--teachers: there is no file no.py", "--teachers", "no.py:net"),
    _option(
        "a teacher's weights that are not there",
        "--teachers: there is nothing at no.pth",
        "--teachers",
        "resnet18=no.pth",
    ),
    _option("a verifier's file that is not there", "--verifier: there is no file no.py", "--verifier", "no.py:net"),
    _option("an empty model name", "--model: name a model", model=""),
    _option("a model file that is not there", "--model: there is no file no.py", model="no.py:net"),
    _option("a model file named as a Python module", "'net:net' is no model; write net.py:net", model="net:net"),
    Case(
        "the directory is a file",
        quantize(),
        "--out: run is a file; give a folder",
        lambda at: (at / "run").touch(),
        torch=False,
    ),
    _option("an assignment without a value", "give NAME=VALUE", "--set", "reconstruction.iterations"),
    _option("a setting of distillation", "epochs is for another command", "--set", "distillation.epochs=3"),
    _option("a misspelt setting", "did you mean reconstruction.iterations?", "--set", "reconstruction.itertions=5"),
    _option(
        "iterations below 0", "--set: reconstruction.iterations cannot be -1", "--set", "reconstruction.iterations=-1"
    ),
    _option("a word for a number", "cannot be '2k': expected int", "--set", "reconstruction.iterations=2k"),
    _option("a method assigned that there is not", "did you mean brecq?", "--set", "reconstruction.method=breck"),
    _option("no such layer bits", "--layer: 'fc=9'", "--layer", "fc=9"),
    _option("an activation in float", "--tensor: 'fc=float'; give", "--tensor", "fc=float"),
    _option("a factor below 1", "--prune: '0.5x' is no factor; give 1.5x", "--prune", "0.5x"),
    _option("a factor that is a word", "--prune: 'half' is no factor; give 1.5x", "--prune", "half"),
    _option("nothing kept", "--keep: '0%' is no share; give 60%", "--keep", "0%"),
    _option("more kept than there is", "--keep: '160%' is no share; give 60%", "--keep", "160%"),
    _option("a time without a unit", "--prune-to: '3' is no time; give 3ms", "--prune-to", "3"),
    _option("two budgets of pruning", "--prune and --keep are two budgets", "--prune", "2x", "--keep", "60%"),
    _option("kept channels in steps of 0", "pruning.granule cannot be 0", "--set", "pruning.granule=0"),
    _recipe("a factor below 1 in a recipe", "--prune: '0.9x' is no factor", "[pruning]\nmacs = '0.9x'"),
    Case("pruning by nothing", ("prune", "--model", "net.py:net"), "Give --prune 1.5x, --keep 60%", torch=False),
    _option("a recipe that is not there", "--config: cannot read no.toml", "--config", "no.toml"),
    _recipe("a recipe that is no TOML", "r.toml is not TOML", "bits = "),
    _recipe("a recipe without tables", "did you mean quantization.bits?", "bits = 4"),
    _recipe("a misspelt key in a recipe", "did you mean reconstruction.drop?", "[reconstruction]\ndorp = 0.5"),
    _recipe("a recipe with 9 bits for a layer", "quantization.layers cannot be", "[quantization.layers]\nfc = 9"),
    _recipe("data in a recipe that are not there", "--data: there is nothing at no", "[evaluation]\ndata = 'no'"),
    Case("no model", ("quantize", "--bits", "4"), "--model", torch=False),
    Case("no bits", ("quantize", "--model", "net.py:net"), "--bits", torch=False),
    Case("no options", ("quantize",), "--model", torch=False),
    Case("no such synthesis", ("synthesize", "--model", "net.py:net", "--method", "magic"), "--method", torch=False),
    Case("a run that is not there", ("validate", "nowhere"), "there is nothing at nowhere", torch=False),
    Case(
        "nothing to inspect", ("inspect",), "give the directory of a finished run, or --model and --bits", torch=False
    ),
)
