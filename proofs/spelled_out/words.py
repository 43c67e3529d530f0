"""Regular expressions of what an explanation says that names a mistake."""

LEFT_OUT = "left out|missing|forgotten"
SLOPE = f"(derivative|slope).*({LEFT_OUT})"
OVERWRITTEN = "overwrit|only the (first|last)|assign"
FACTOR = f"(factor|scale|mask|divisor|dropout|gate).*({LEFT_OUT})|({LEFT_OUT}).*(factor|scale|mask|divisor|gate)"
MEAN = f"sum instead of mean|mean instead of sum|1 / |divi.*({LEFT_OUT})"
PLACE = "in place of|instead of|is not what the loss computes"
HANDED_ON = f"handed on|truncat|path.*({LEFT_OUT})"
SHIFTED = "shift|step (before|after)|" + PLACE
TOO_OFTEN = "added|itself|counted twice|too often"
