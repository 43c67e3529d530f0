"""The layers, one family a file. Whatever Layer a file here defines is found and exported: there is no list to edit."""
import importlib
import pkgutil

from jaxbp.core import Layer


def _found() -> dict[str, type[Layer]]:
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    defined = lambda value, module: isinstance(value, type) and issubclass(value, Layer) and value.__module__ == module
    return {name: value for m in modules for name, value in vars(m).items() if defined(value, m.__name__)}


globals().update(_found())
__all__ = sorted(_found())
