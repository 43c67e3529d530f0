"""What a user misspells: test_types.py has mypy and pyright find the lines that end in `# wrong`, and no others."""

import jaxbp
from jaxbp.layers import Desne  # wrong
from jaxbp.optim import Adam

layer = jaxbp.Dense(8)
print(layer.features)
print(layer.feature)  # wrong
print(Desne(8))
print(jaxbp.Cahin((layer,)))  # wrong
print(jaxbp.optim.Adam(0.1))
print(jaxbp.optim.Adma(0.1))  # wrong
print(Adam(learning_rate="fast"))  # wrong
print(jaxbp.Conv(3, kernel="5x5"))  # wrong
