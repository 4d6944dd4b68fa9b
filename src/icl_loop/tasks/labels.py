"""Label maps: the names under which the model sees the classes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count, islice
from math import gcd, prod

from icl_loop.core.errors import InputError
from icl_loop.core.records import keyed_order

LabelMap = Mapping[str, str]
"""From the class name in the data set to the name that the model sees."""
Key = tuple[int, int]
"""Seed and stream of a session; they determine its random choices."""

ABSTRACT_NAMES = tuple(
    """
    lamp stone river paper glass table cloud knife bread chair door window bridge forest silver
    basket mirror orange hammer needle thread wheel rocket bell tent path hill lake pond sand rock
    iron steel brick root branch seed grass corn rice salt coffee cake pie snow rain storm ash ice
    planet queen castle tower wall gate roof hall mill shop market church library hotel
    """.split()  # noqa: SIM905  sixty literals would take sixty lines
)
"""Names unrelated to the data sets. Each is one token of o200k_base and of cl100k_base, with or
without a space before it."""
SYLLABLES = tuple(
    """
    bab bac bak bal bam bas baz beb bef beh bek bel ber bew bij bil bir biz bol bor bos buf bul
    cac caf cas cel cen cep cer ces cil cin cir cit cor cos cov cus dac dag dal dap ded deg dic
    dit dob duk dup fac fal fas fav fel fid fil fol fon fos ful gam gan ges gid gon gor hap har
    hed hel hic hil hor jac jak jal jav jej jer jes jit jos jud jur kad kal kan kar kas kat ked
    kel ker kes ket kil kol kom kon kop kor kos kul lac lah lar lav lem ler lev lic lig lij lik
    lim lis liv lod lor lov lut mah mak mem mer mez mis mor mot mov moz mul mun mur nak nal nar
    nas nav naz neh nel nen ner nic nid nik nim nin noc nom nop pag pec ped pel pes pid pir pon
    por rab rac raj ras raz reb rec rek rel rer rew rez ric rif rij rin ris rit riv roc rog rol
    ros roz rud rus sar sav seg sel sem ses sig sil soc som sus sut tas tek tem tep ter tes tid
    til toc tok tol vac vak vas vec ved veh vel ven ves vez vid vig vil vin vir vis vit vos wat
    wel wid wij wik wil wor zag zer zig
    """.split()  # noqa: SIM905  as above
)
"""Syllables that are no English or German words, for data sets of more classes; tokens as above."""
SINGLE_TOKENS = (*ABSTRACT_NAMES, *SYLLABLES)
_CONSONANTS, _VOWELS = "bdklmnprtvz", "aeiou"


def abstract_names(number: int) -> tuple[str, ...]:
    """Return at least this number of names: the words, or the syllables too, or further ones.

    Those after the syllables are generated from pairs of syllables, such as "bodak", then from
    longer ones, and take several tokens.
    """
    if number <= len(ABSTRACT_NAMES):
        return ABSTRACT_NAMES
    generated = (name for name in _generated() if name not in ABSTRACT_NAMES)
    return (*SINGLE_TOKENS, *islice(generated, max(0, number - len(SINGLE_TOKENS))))


def _generated() -> Iterator[str]:
    """Yield names of consonants and vowels in turn, five letters long and then longer ones."""
    for pairs in count(2):
        forms = [_CONSONANTS, *(_VOWELS, _CONSONANTS) * pairs]
        size = prod(map(len, forms))
        step = next(each for each in count(round(0.618 * size)) if gcd(each, size) == 1)
        for place in range(size):  # in steps, so that names differ from the first letter on
            yield _spelt(place * step % size, forms)


def _spelt(number: int, forms: Sequence[str]) -> str:
    """Return the name with this number among those that take one letter of each form."""
    letters = []
    for form in reversed(forms):
        number, place = divmod(number, len(form))
        letters.append(form[place])
    return "".join(reversed(letters))


def native(labels: tuple[str, ...], _: Key) -> LabelMap:
    """Return the map that keeps every name."""
    return {label: label for label in labels}


def abstract(labels: tuple[str, ...], key: Key) -> LabelMap:
    """Return a random map to unrelated names, for any number of labels."""
    names = abstract_names(len(labels))
    drawn = keyed_order(len(names), *key, "abstract labels").tolist()
    return {label: names[index] for label, index in zip(labels, drawn, strict=False)}


def deranged(labels: tuple[str, ...], key: Key) -> LabelMap:
    """Return a random map that gives every class the name of another class."""
    return dict(zip(labels, _derangement(labels, *key, "deranged labels"), strict=True))


LABEL_MAPS: Mapping[str, Callable[[tuple[str, ...], Key], LabelMap]] = {
    "native": native,
    "abstract": abstract,
    "deranged": deranged,
}
"""By kind: from the classes of a data set, and seed and stream, to their names."""


def swapped(label_map: LabelMap, key: Key) -> LabelMap:
    """Return a map with the same names in which no class keeps its name."""
    names = tuple(label_map.values())
    return dict(zip(label_map, _derangement(names, *key, "swap"), strict=True))


def _derangement(names: tuple[str, ...], *key: str | int) -> list[str]:
    """Return a random order of `names` that leaves none in place, uniform over all such orders.

    Random orders are drawn until one qualifies, which takes about e attempts.
    """
    if len(names) < 2:
        raise InputError(f"swapping names needs at least two classes, got {len(names)}")
    for attempt in count():
        order = keyed_order(len(names), *key, attempt).tolist()
        if all(index != place for place, index in enumerate(order)):
            break
    return [names[index] for index in order]
