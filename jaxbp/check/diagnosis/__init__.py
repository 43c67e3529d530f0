"""What is wrong with a gradient: the causes that reproduce the wrong numbers exactly.

explain      asks all of the below for one wrong leaf, and orders what they say
patterns     wrong arrays that are simple images of the true one: a factor, a transpose, swapped axes, dropped rows
simulation   what the known mistakes would give: rows left out, a wrong point, and all mutants
mutants      the forward pass run again with one operation's reverse rule broken, all mutants in one compiled program
conjugates   conjugates too many or too few, of complex numbers
mistakes     how one operation's reverse rule can be wrong
jaxprs       the forward pass as a list of operations, custom rules taken off
bisect       the first wrong step of a model's backward pass
"""
