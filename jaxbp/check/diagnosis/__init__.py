"""What is wrong with a gradient: the causes that reproduce the wrong numbers exactly.

explain      asks all of the below for one wrong leaf, and orders what they say
patterns     wrong arrays that are simple images of the true one: a factor, a transpose, swapped axes, dropped rows
simulation   what the known mistakes would give: rows left out, a wrong point, and all mutants
mutants      the forward pass run again with the reverse rule of one piece broken, all mutants in one program
book         the changes that this program holds, and which of them a mutant makes: one, or a line in all its runs
conjugates   conjugates too many or too few, of complex numbers
mistakes     how one operation's reverse rule can be wrong
slopes       how the derivative of a function of one value can be wrong: an activation, a softmax, a norm
neighbours   what a wrong rule may read instead of its own inputs
flow         the forward pass as a list of operations, and its pieces: functions of one value, written out or not
repairs      the hand-written gradient with one line mended: what makes it right says what was wrong, and where
mends        what a line may lack, have too much or read wrongly; wholes has those of an operation as a whole
sources      what the forward pass has for a gradient to use: its values, factors, slopes and numbers
rerun        a list of operations run again from one line on, for all mends at once
rows         a program run in NumPy for all mutants at once, where they differ; primitives has its operations
jaxprs       operations and their lines; loops; custom rules taken off
bisect       the first wrong step of a model's backward pass
"""
